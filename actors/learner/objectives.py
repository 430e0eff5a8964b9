"""The mathematics of learning, as pure functions: policy losses, KL, how tokens are weighed.

Per-token functions return one value per token; callers weigh them (:func:`token_weights`), sum, and divide by global
counts (:func:`loss_divisor`), so that no result depends on how a batch was cut into micro-batches or spread over ranks.
What belongs to a whole trace (a sequence's ratio) is computed within it: a trace is never split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from actors.learner.choices import AGGREGATIONS, KL_ESTIMATORS, LOSSES, RATIOS, chosen
from actors.learner.settings import PolicySettings

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to this before ``exp``: beyond it float32 has long overflowed what a loss can use."""


def over_sequences(values: torch.Tensor, counts: Sequence[int], mean: bool) -> torch.Tensor:
    """Sum or mean over each sequence's tokens, given to each of them.

    Args:
        values: [N], the tokens of all sequences, one sequence after another.
        counts: tokens of each sequence; they sum to N.
        mean: divide by the sequence's length.

    Returns:
        [N], constant within a sequence.

    """
    lengths = torch.tensor(counts, dtype=torch.int64, device=values.device)
    rows = torch.repeat_interleave(torch.arange(len(counts), device=values.device), lengths)
    totals = torch.zeros(len(counts), dtype=values.dtype, device=values.device).index_add(0, rows, values)
    return (totals / lengths if mean else totals).index_select(0, rows)


def of_tokens(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Each token's own value: the ratio of PPO."""
    return values


def sums_over_traces(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Of log-ratios: the ratio of the traces' probabilities."""
    return over_sequences(values, counts, mean=False)


def means_over_traces(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Of log-ratios: the geometric mean, GSPO's ratio (Zheng et al. 2025, arXiv 2507.18071, equation 7)."""
    return over_sequences(values, counts, mean=True)


def policy_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, counts: Sequence[int], level: str) -> torch.Tensor:
    """Policy over old policy, of every token or of the whole trace it belongs to: [N].

    ``token``: exp(log p - log q). ``sequence``: the product over the trace. ``sequence_mean``: its geometric mean. The
    logarithm is clamped before ``exp``.

    Raises:
        ValueError: another level.

    """
    difference = chosen("ratio", RATIOS, level, globals())(logprobs - old_logprobs, counts)
    return torch.exp(difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


class PolicyLoss(NamedTuple):
    """A policy loss and where its bounds took effect, [N] each."""

    losses: torch.Tensor
    ratios: torch.Tensor
    """Without gradient."""
    below: torch.Tensor
    """bool, the ratio's lower bound acts"""
    above: torch.Tensor
    """bool, the upper one"""
    dual: torch.Tensor
    """bool, dual clip"""


def clipped_loss(
    ratios: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> PolicyLoss:
    """PPO's clipped surrogate, negated, per token: max(-A r, -A clip(r, 1 - low, 1 + high)).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, with separate bounds as in DAPO (arXiv 2503.14476, equation 8).
    ``dual_clip`` c > 1 bounds it by -A c where A < 0 (Ye et al. 2020, arXiv 1912.09729, equation 5); 0 leaves that out.
    """
    plain = -advantages * ratios
    losses = torch.maximum(plain, -advantages * ratios.clamp(1 - clip_low, 1 + clip_high))
    below, above = (advantages < 0) & (ratios < 1 - clip_low), (advantages > 0) & (ratios > 1 + clip_high)
    dual = torch.zeros_like(below)
    if dual_clip:
        dual = (advantages < 0) & (ratios > dual_clip)
        losses = torch.where(dual, -advantages * dual_clip, losses)
    return PolicyLoss(losses, ratios.detach(), below, above, dual)


def cispo_loss(
    ratios: torch.Tensor, logprobs: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float
) -> PolicyLoss:
    """CISPO: -sg(clip(r, 1 - low, 1 + high)) A log p, per token.

    No token loses its gradient, only its weight is bounded. MiniMax-M1, 2025 (arXiv 2506.13585), equations 4 and 5.
    """
    fixed = ratios.detach()
    below, above = fixed < 1 - clip_low, fixed > 1 + clip_high
    losses = -fixed.clamp(1 - clip_low, 1 + clip_high) * advantages * logprobs
    return PolicyLoss(losses, fixed, below, above, torch.zeros_like(below))


def gmpo_loss(
    ratios: torch.Tensor, advantages: torch.Tensor, counts: Sequence[int], clip_low: float, clip_high: float
) -> PolicyLoss:
    """GMPO: -A times the geometric mean over the trace of its tokens' bounded ratios, given to each token.

    As in PPO a ratio is bounded where it would gain: from above where A > 0, from below where A < 0. A geometric mean
    is moved less by single tokens than PPO's arithmetic one, so bounds may be wide. Zhao et al. 2025 (arXiv
    2507.20673), section 3: (prod_t |min(r_t A, clip(r_t) A)|)^(1 / L) sgn A.
    """
    lowest, highest = 1 - clip_low, 1 + clip_high
    bounded = torch.where(advantages > 0, ratios.clamp(max=highest), ratios.clamp(min=lowest))
    means = torch.exp(over_sequences(bounded.log(), counts, mean=True))
    below, above = (advantages < 0) & (ratios < lowest), (advantages > 0) & (ratios > highest)
    return PolicyLoss(-advantages * means, ratios.detach(), below, above, torch.zeros_like(below))


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    counts: Sequence[int],
    settings: PolicySettings,
) -> PolicyLoss:
    """The policy loss that the settings choose, per token and not yet weighed.

    Raises:
        ValueError: a loss or ratio that there is not.

    """
    ratios = policy_ratio(logprobs, old_logprobs, counts, settings.ratio)
    loss = chosen("policy loss", LOSSES, settings.loss, globals())
    given = {"logprobs": logprobs, "ratios": ratios, "advantages": advantages, "counts": counts}
    takes = LOSSES[settings.loss].takes
    return loss(**{name: given[name] if name in given else getattr(settings, name) for name in takes})


def whole_tokens(lengths: torch.Tensor, fixed_length: int) -> torch.Tensor:
    """1: a mean over tokens (DAPO)."""
    return torch.ones(len(lengths))


def shares_of_traces(lengths: torch.Tensor, fixed_length: int) -> torch.Tensor:
    """1 / length of the trace: a mean over traces of means over tokens (GRPO, arXiv 2402.03300, equation 3)."""
    return 1 / lengths.float()


def shares_of_fixed_length(lengths: torch.Tensor, fixed_length: int) -> torch.Tensor:
    """1 / fixed_length: no bias towards short right and long wrong traces (Dr. GRPO, 2503.20783, section 3.1)."""
    return torch.full((len(lengths),), 1 / fixed_length)


def token_weights(counts: Sequence[int], aggregation: str, fixed_length: int, device: str = "cpu") -> torch.Tensor:
    """Weight of each token in the mini-batch's sum, which is then divided by :func:`loss_divisor`: [N] float32.

    Args:
        counts: completion tokens of the micro-batch's sequences; they sum to N.
        aggregation: ``token_mean``, ``sequence_mean`` or ``fixed_length``.
        fixed_length: tokens that ``fixed_length`` divides by, whatever a trace's length.
        device: of the result.

    Raises:
        ValueError: another aggregation.

    """
    lengths = torch.tensor(counts, dtype=torch.int64)
    shares = chosen("aggregation", AGGREGATIONS, aggregation, globals())(lengths, fixed_length)
    return shares.repeat_interleave(lengths).to(device)


def loss_divisor(aggregation: str, tokens: int, sequences: int) -> int:
    """What a mini-batch's sum is divided by: the tokens or the sequences of all ranks."""
    return tokens if AGGREGATIONS[aggregation].per_token else sequences


def k1_estimate(difference: torch.Tensor) -> torch.Tensor:
    """log p/q. As a loss, its gradient has mean 0 and restrains nothing."""
    return -difference


def k2_estimate(difference: torch.Tensor) -> torch.Tensor:
    """(log p/q)^2 / 2. As a loss, it has the gradient of the KL itself."""
    return difference.square() / 2


def k3_estimate(difference: torch.Tensor) -> torch.Tensor:
    """q/p - 1 - log q/p: never negative, of low variance; GRPO's choice (arXiv 2402.03300, equation 4)."""
    return torch.exp(difference) - 1 - difference


def kl_divergence(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """KL(policy || reference) per token, estimated on the policy's own samples by ``k1``, ``k2`` or ``k3``.

    With p the policy's probability and q the reference's, the estimators get log q/p, clamped. Schulman, "Approximating
    KL divergence", 2020.

    Raises:
        ValueError: another estimator.

    """
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return chosen("KL estimator", KL_ESTIMATORS, estimator, globals())(difference)
