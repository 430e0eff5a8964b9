"""Strengths of responses from the results of their comparisons, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PRIOR = 2.0
"""Standard deviation of the prior on strengths: without one, who never lost would be infinitely strong."""
_LEVEL = 1.959964
"""Standard deviations on either side of a 95% interval."""


def bradley_terry(n: int, results: Mapping[tuple[int, int], float]) -> tuple[np.ndarray, np.ndarray]:
    """Strengths ``[n]`` and their 95% intervals ``[n, 2]``, in log-odds, with mean 0.

    Bradley and Terry (1952): i beats j with probability ``sigmoid(strength_i - strength_j)``. A result between 0 and 1
    counts as that share of a win. The mode under a normal prior, found by SciPy's trust-region solver; intervals from
    the curvature there (Laplace's approximation).
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    if not results:
        spread = np.full(n, _LEVEL * PRIOR)
        return np.zeros(n), np.stack([-spread, spread], axis=1)
    first, second = np.array(list(results)).T
    share = np.array(list(results.values()))

    def loss(strength: np.ndarray) -> tuple[float, np.ndarray]:
        difference = strength[first] - strength[second]
        value = np.sum(np.logaddexp(0, difference) - share * difference) + strength @ strength / (2 * PRIOR**2)
        slope = strength / PRIOR**2
        np.add.at(slope, first, expit(difference) - share)
        np.add.at(slope, second, share - expit(difference))
        return float(value), slope

    def curvature(strength: np.ndarray) -> np.ndarray:
        weight = expit(difference := strength[first] - strength[second]) * expit(-difference)
        matrix = np.eye(n) / PRIOR**2
        for rows, columns, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
            np.add.at(matrix, (rows, columns), sign * weight)
        return matrix

    found = minimize(loss, np.zeros(n), jac=True, hess=curvature, method="trust-exact")
    strength = found.x
    spread = _LEVEL * np.sqrt(np.diag(np.linalg.inv(curvature(strength))))
    return strength, np.stack([strength - spread, strength + spread], axis=1)
