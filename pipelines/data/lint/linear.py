"""A linear classifier on sparse features: choosing the features that tell most, then logistic regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit


def sparse(rows: Sequence[np.ndarray], width: int, values: Sequence[np.ndarray] | None = None) -> csr_array:
    """The matrix ``[N, width]`` of each row's features, distinct and below ``width``; values are 1 where not given."""
    starts = np.cumsum([0, *map(len, rows)])
    features = np.concatenate(rows).astype(np.int64)
    given = np.ones(len(features)) if values is None else np.concatenate(values).astype(np.float64)
    return csr_array((given, features, starts), shape=(len(rows), width))


def telling(matrix: csr_array, labels: np.ndarray, most: int, at_least: int = 3) -> np.ndarray:
    """The at most ``most`` features, in at least ``at_least`` rows, that differ most between the labels ``[N]``.

    By the score test of one feature at a time: ``|sum(x (y - mean y))| / sqrt(sum(x^2))``.
    """
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    differences = matrix.T @ (labels - labels.mean())
    norms = np.sqrt(matrix.power(2).sum(axis=0))
    scores = np.where(counts >= at_least, np.abs(differences) / np.maximum(norms, 1e-9), 0)
    best = np.argsort(-scores, kind="stable")[:most]
    return np.sort(best[scores[best] > 0])


def fit(matrix: csr_array, labels: np.ndarray, penalty: float = 1.0) -> tuple[np.ndarray, float]:
    """Weights ``[F]`` and bias of a logistic regression on labels ``[N]`` of 0 and 1, by L-BFGS.

    The least of the mean log loss plus ``penalty |w|^2 / (2 N)``; the bias is not penalised.
    """

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:-1]
        scores = matrix @ weights + parameters[-1]
        missing = expit(scores) - labels
        value = (np.logaddexp(0, scores) - labels * scores).sum() + penalty * (weights @ weights) / 2
        return value / len(labels), np.append(matrix.T @ missing + penalty * weights, missing.sum()) / len(labels)

    found = minimize(loss, np.zeros(matrix.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])
