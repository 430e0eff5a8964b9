"""The percentile bootstrap (Efron 1979): how far a figure could be off by the choice of what was judged."""

from __future__ import annotations

import numpy as np


def resampled_sums(units: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Sums over units that are drawn with replacement, ``[resamples, ...]``; ``units`` is what each adds, ``[n, ...]``.

    Units that add the same can stand for each other, so a resample is one multinomial draw over the kinds of units: the
    same distribution, at a cost that grows with the number of kinds alone.
    """
    kinds, alike = np.unique(units, axis=0, return_counts=True)
    drawn = rng.multinomial(len(units), alike / len(units), size=resamples)
    return (drawn @ kinds.reshape(len(kinds), -1)).reshape(resamples, *units.shape[1:])


def bounds(values: np.ndarray, level: float = 0.95) -> list[float]:
    """``[low, high]``: the middle ``level`` of a figure's values ``[resamples]``."""
    tail = 50.0 * (1.0 - level)
    return [float(bound) for bound in np.percentile(values, [tail, 100.0 - tail])]
