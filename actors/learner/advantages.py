"""Advantages of a group of traces; pure NumPy, so that the driver needs no torch."""

from __future__ import annotations

import numpy as np


def group_advantages(rewards: np.ndarray, normalise: bool = True, epsilon: float = 1e-6) -> np.ndarray:
    """Advantages of one group ([G]): reward minus the group's mean, divided by its standard deviation.

    GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1. The standard deviation is the sample one (G - 1 in the
    denominator), as in veRL, which RM-R1 trained with. A group of equal rewards gives zeros.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if np.ptp(rewards) == 0:
        # Exactly: the rounding of a mean divided by epsilon is not nothing, and one trace has no sample deviation.
        return np.zeros_like(rewards)
    centred = rewards - np.mean(rewards)
    if not normalise:
        return centred
    return centred / (np.std(rewards, ddof=1) + epsilon)
