"""Importance weights between the old policy, from which a loss starts, and the engine's, which wrote the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from actors.learner import objectives
from actors.learner.choices import CORRECTION_LEVELS, CORRECTIONS, chosen
from actors.learner.objectives import LOG_RATIO_LIMIT


class Correction(NamedTuple):
    """What the policy loss is multiplied by, [N] each, without gradient."""

    weights: torch.Tensor
    limited: torch.Tensor
    """bool, truncated or masked"""


def unweighted(weights: torch.Tensor, floor: float, limit: float) -> Correction:
    """1 for every token."""
    return Correction(torch.ones_like(weights), torch.zeros_like(weights, dtype=torch.bool))


def truncated(weights: torch.Tensor, floor: float, limit: float) -> Correction:
    """min(w, limit), TIS: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"."""
    return Correction(weights.clamp(max=limit), weights > limit)


def masked(weights: torch.Tensor, floor: float, limit: float) -> Correction:
    """w where floor <= w <= limit, else 0, as in IcePop and in masked importance sampling.

    Liu et al. 2025, "When speed kills stability".
    """
    outside = (weights < floor) | (weights > limit)
    return Correction(weights.masked_fill(outside, 0.0), outside)


def importance_weights(
    logprobs: torch.Tensor,
    rollout_logprobs: torch.Tensor,
    counts: Sequence[int],
    *,
    kind: str,
    level: str,
    floor: float,
    limit: float,
) -> Correction:
    """old policy / engine's policy, bounded, for every token.

    With the ratio's denominator recomputed by the learner this is decoupled PPO (Hilton et al. 2021, arXiv 2110.00641,
    equation 5): the proximal policy bounds the step, the engine's is what the traces are weighed against. At the level
    of a sequence w is the product over its tokens, given to each of them.

    Args:
        logprobs: [N], of the policy the ratio's denominator uses.
        rollout_logprobs: [N], as the engine sampled.
        counts: tokens of each sequence; they sum to N.
        kind: ``none``, ``truncate`` or ``mask``.
        level: ``token`` or ``sequence``.
        floor: smallest weight that a mask keeps.
        limit: largest weight.

    Raises:
        ValueError: another kind or level.

    """
    of_level = chosen("correction level", CORRECTION_LEVELS, level, vars(objectives))
    difference = of_level((logprobs - rollout_logprobs).detach(), counts)
    weights = torch.exp(difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return chosen("correction", CORRECTIONS, kind, globals())(weights, floor, limit)
