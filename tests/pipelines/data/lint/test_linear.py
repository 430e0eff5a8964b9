"""The linear classifier against its conditions of optimality, worked out densely."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.lint.linear import fit, sparse, telling

ROWS = [np.array(row) for row in ([0, 2], [0], [1, 2], [], [0, 1], [2], [1], [0, 3])]
LABELS = np.array([1.0, 1, 0, 0, 1, 1, 0, 0])


def dense() -> np.ndarray:
    matrix = np.zeros((len(ROWS), 5))
    for index, row in enumerate(ROWS):
        matrix[index, row.astype(int)] = 1
    return matrix


def test_rows_without_features_and_features_without_rows_count() -> None:
    assert sparse(ROWS, 5).toarray().tolist() == dense().tolist()
    values = [np.arange(len(row)) - 0.5 for row in ROWS]
    assert sparse(ROWS, 5, values).toarray()[0].tolist() == [-0.5, 0, 0.5, 0, 0]


@pytest.mark.parametrize("penalty", [0.3, 3.0])
def test_the_fit_is_the_minimum(penalty: float) -> None:
    """There the gradient of the summed log loss is what the penalty pulls with, and that of the bias 0."""
    weights, bias = fit(sparse(ROWS, 5), LABELS, penalty)
    missing = 1 / (1 + np.exp(-(dense() @ weights + bias))) - LABELS
    assert dense().T @ missing + penalty * weights == pytest.approx(0, abs=1e-4)
    assert missing.sum() == pytest.approx(0, abs=1e-4)
    assert weights[4] == 0


def test_features_of_one_label_tell_most() -> None:
    """By hand: differences 1, -0.5, 0.5 and -0.5 over the roots of 4, 3, 3 and 1; the last is in too few rows."""
    assert telling(sparse(ROWS, 5), LABELS, 1).tolist() == [0]
    assert telling(sparse(ROWS, 5), LABELS, 9).tolist() == [0, 1, 2]
    assert telling(sparse(ROWS, 5), LABELS, 9, at_least=1).tolist() == [0, 1, 2, 3]
