"""From rewards to advantages, and the KL coefficient's control; pure NumPy, so that the driver needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.learner.choices import ADVANTAGES, chosen


def standardised(rewards: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    """(r - mean) / standard deviation: GRPO, Shao et al. 2024 (arXiv 2402.03300), section 4.1.

    The deviation is the sample one (G - 1 in the denominator), as in veRL, which RM-R1 trained with.
    """
    return centred(rewards) / (np.std(rewards, ddof=1) + epsilon)


def centred(rewards: np.ndarray) -> np.ndarray:
    """r - mean: Dr. GRPO (arXiv 2503.20783), and the baseline of ``centred_batch_standardised``."""
    return rewards - np.mean(rewards)


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """r - mean of the others: RLOO, Ahmadian et al. 2024 (arXiv 2402.14740), equation 7."""
    return centred(rewards) * len(rewards) / (len(rewards) - 1)


def as_they_are(rewards: np.ndarray) -> np.ndarray:
    """r: what ``batch_standardised`` starts from."""
    return rewards.copy()


def group_advantages(rewards: np.ndarray, estimator: str = "standardised") -> np.ndarray:
    """Advantages of one group ([G]) within itself; ``estimator`` is a row of ``choices.ADVANTAGES``.

    A group of equal rewards gives exact zeros where its traces are compared with one another.

    Raises:
        ValueError: another estimator.

    """
    rewards = np.asarray(rewards, dtype=np.float64)
    advantages = chosen("advantage", ADVANTAGES, estimator, globals())
    if ADVANTAGES[estimator].needs_group and np.ptp(rewards) == 0:
        # Exactly: the rounding of a mean divided by epsilon is not nothing, and one trace has no sample deviation.
        return np.zeros_like(rewards)
    return advantages(rewards)


def returns_to_go(reward: float, penalties: np.ndarray) -> np.ndarray:
    """reward - sum of the penalties from each token on: [L]. REINFORCE++, Hu 2025 (arXiv 2501.03262), equation 8."""
    return reward - np.cumsum(np.asarray(penalties, dtype=np.float64)[::-1])[::-1]


def standardise_batch(advantages: Sequence[np.ndarray], epsilon: float = 1e-8) -> list[np.ndarray]:
    """(A - mean) / standard deviation over all tokens of a rollout batch. REINFORCE++ (arXiv 2501.03262), equation 10.

    Args:
        advantages: [L] per trace.
        epsilon: added to the deviation.

    Returns:
        [L] per trace; exact zeros where all are equal, so that no noise is learnt from.

    """
    if not advantages:
        return []
    everything = np.concatenate(advantages)
    mean, deviation = np.mean(everything), np.std(everything)
    if np.ptp(everything) == 0:
        return [np.zeros_like(values) for values in advantages]
    return [(values - mean) / (deviation + epsilon) for values in advantages]


def adapted_coefficient(coefficient: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The KL coefficient of the next step: larger where the KL is above ``target``, smaller where it is below.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: c (1 + gain x e), e = clip((KL - target) / target, -0.2, 0.2).
    """
    return coefficient * (1 + gain * min(max((kl - target) / target, -0.2), 0.2))
