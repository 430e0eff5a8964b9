"""Importance weights between the policy a loss starts from and the engine's that wrote the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from actors.learner.objectives import LOG_RATIO_LIMIT, over_sequences


class Correction(NamedTuple):
    """Weights of the policy loss, [N] each, without gradient."""

    weights: torch.Tensor
    limited: torch.Tensor
    """bool, truncated or masked"""


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
    equation 5): the proximal policy bounds the step, the engine's is what the traces are weighed against.

    ``truncate``: min(w, limit), TIS (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"; Ionides 2008). ``mask``: w where floor <= w <= limit, else 0, as in IcePop and masked importance sampling
    (Liu et al. 2025, "When speed kills stability"). At the level of a sequence w is the product over its tokens, given
    to each of them.

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
    difference = (logprobs - rollout_logprobs).detach()
    if kind == "none":
        return Correction(torch.ones_like(difference), torch.zeros_like(difference, dtype=torch.bool))
    if level == "sequence":
        difference = over_sequences(difference, counts, mean=False)
    elif level != "token":
        raise ValueError(f"correction level {level!r} is not one of token, sequence")
    weights = torch.exp(difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    if kind == "truncate":
        return Correction(weights.clamp(max=limit), weights > limit)
    if kind == "mask":
        outside = (weights < floor) | (weights > limit)
        return Correction(weights.masked_fill(outside, 0.0), outside)
    raise ValueError(f"correction {kind!r} is not one of none, truncate, mask")
