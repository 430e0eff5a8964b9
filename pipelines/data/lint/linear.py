"""A linear classifier on sparse features: choosing the features that tell most, then logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sparse:
    """Rows of (feature, value) as one matrix ``[N, F]`` in compressed rows."""

    starts: np.ndarray
    """``[N + 1]``: where each row begins."""
    features: np.ndarray
    """``[nnz]`` int64, below ``width``."""
    values: np.ndarray
    """``[nnz]`` float32."""
    width: int

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], width: int, values: Sequence[np.ndarray] | None = None) -> Sparse:
        """From each row's features, with value 1 where none are given."""
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        features = np.concatenate(rows).astype(np.int64) if len(rows) else np.zeros(0, np.int64)
        given = np.concatenate(values).astype(np.float32) if values else np.ones(len(features), np.float32)
        return cls(starts, features, given, width)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def row_of(self) -> np.ndarray:
        """``[nnz]``: the row of every entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def take(self, rows: np.ndarray) -> Sparse:
        """The matrix of these rows ``[n]``, in this order."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + np.repeat(self.starts[rows], lengths)
        return Sparse(starts, self.features[entries], self.values[entries], self.width)

    def only(self, kept: np.ndarray) -> Sparse:
        """The matrix of these features ``[f]``, numbered anew from 0."""
        renumbered = np.full(self.width, -1, np.int64)
        renumbered[kept] = np.arange(len(kept))
        entries = renumbered[self.features] >= 0
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.row_of[entries], minlength=len(self)))])
        return Sparse(starts, renumbered[self.features[entries]], self.values[entries], len(kept))

    def dot(self, weights: np.ndarray) -> np.ndarray:
        """``[N]``: the product with ``weights`` ``[F]``."""
        return np.bincount(self.row_of, self.values * weights[self.features], minlength=len(self))

    def sums(self, per_row: np.ndarray) -> np.ndarray:
        """``[F]``: the product of the transpose with ``per_row`` ``[N]``."""
        return np.bincount(self.features, self.values * per_row[self.row_of], minlength=self.width)


def telling(matrix: Sparse, labels: np.ndarray, most: int, at_least: int = 3) -> np.ndarray:
    """The at most ``most`` features, in at least ``at_least`` rows, that differ most between the labels ``[N]``.

    By the score test of one feature at a time: ``|sum(x (y - mean y))| / sqrt(sum(x^2))``.
    """
    counts = np.bincount(matrix.features, minlength=matrix.width)
    differences = matrix.sums(labels - labels.mean())
    norms = np.sqrt(np.bincount(matrix.features, matrix.values**2, minlength=matrix.width))
    scores = np.where(counts >= at_least, np.abs(differences) / np.maximum(norms, 1e-9), 0)
    best = np.argsort(-scores, kind="stable")[:most]
    return np.sort(best[scores[best] > 0])


def fit(matrix: Sparse, labels: np.ndarray, penalty: float = 1.0, steps: int = 150) -> tuple[np.ndarray, float]:
    """Weights ``[F]`` and bias of a logistic regression on labels ``[N]`` of 0 and 1, with an L2 penalty.

    Full-batch Adam: at these sizes as good as anything, and it needs no second derivatives.
    """
    weights, bias = np.zeros(matrix.width + 1), float(labels.mean())
    weights[-1] = np.log((bias + 1e-6) / (1 - bias + 1e-6))
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, steps + 1):
        chances = 1 / (1 + np.exp(-np.clip(matrix.dot(weights[:-1]) + weights[-1], -30, 30)))
        missing = chances - labels
        gradient = np.append(matrix.sums(missing) + penalty * weights[:-1], missing.sum()) / len(matrix)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        weights -= 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
    return weights[:-1], float(weights[-1])
