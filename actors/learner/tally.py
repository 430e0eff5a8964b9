"""What a policy step measures: sums and maxima over the tokens of all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from actors.learner.corrections import Correction
from actors.learner.objectives import LOG_RATIO_LIMIT, PolicyLoss

# In the order in which ranks exchange them.
_SUMS = (
    "loss",
    "policy_loss",
    "kl",
    "entropy",
    "ratio_mean",
    "clip_fraction_low",
    "clip_fraction_high",
    "clip_fraction_dual",
    "correction_weight",
    "correction_limited",
    "logprob_difference",
    "weight",
    "weight_squared",
    "trace_weight",
    "trace_weight_squared",
)
_WEIGHED = ("loss", "policy_loss")
_LARGEST = ("ratio_max", "logprob_difference_max")


class PolicyTally:
    """Adds up a policy step's micro-batches; :meth:`metrics`, which all ranks must call, joins those of all ranks."""

    def __init__(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self._largest = torch.zeros(len(_LARGEST), dtype=torch.float64)

    @torch.no_grad()
    def add(
        self,
        loss: torch.Tensor,
        policy_losses: torch.Tensor,
        kl: torch.Tensor,
        entropies: torch.Tensor,
        policy: PolicyLoss,
        correction: Correction,
        difference: torch.Tensor,
        counts: Sequence[int],
    ) -> None:
        """Add a micro-batch of at least one token.

        Args:
            loss: [N], weighed and not yet divided, all terms.
            policy_losses: [N], weighed and corrected.
            kl: [N].
            entropies: [N].
            policy: the policy loss before weighing.
            correction: its importance weights.
            difference: [N], learner's minus engine's log-probabilities.
            counts: tokens of each sequence.

        """
        clamped = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        traces = torch.stack([part.sum() for part in difference.split(list(counts))])
        weights, trace_weights = clamped.exp(), traces.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        values = (
            loss,
            policy_losses,
            kl,
            entropies,
            policy.ratios,
            policy.below,
            policy.above,
            policy.dual,
            correction.weights,
            correction.limited,
            difference.abs(),
            weights,
            weights.double().square(),
            trace_weights,
            trace_weights.double().square(),
        )
        self._sums += torch.stack([value.sum(dtype=torch.float64) for value in values]).cpu()
        largest = torch.stack([policy.ratios.max(), difference.abs().max()]).double().cpu()
        self._largest = torch.maximum(self._largest, largest)

    def metrics(self, tokens: int, sequences: int, divisor: int, group: Any) -> dict[str, float]:
        """Means over the mini-batch's tokens, maxima, and effective sample sizes as shares of 1.

        Args:
            tokens: completion tokens of the mini-batch, all ranks together.
            sequences: its sequences.
            divisor: what its losses are divided by.
            group: the process group of the ranks.

        """
        dist.all_reduce(self._sums, group=group)
        dist.all_reduce(self._largest, op=dist.ReduceOp.MAX, group=group)
        sums = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        squares = [sums.pop("weight_squared"), sums.pop("trace_weight_squared")]
        first = [sums.pop("weight"), sums.pop("trace_weight")]
        metrics = {name: value / (divisor if name in _WEIGHED else tokens) for name, value in sums.items()}
        metrics |= dict(zip(_LARGEST, self._largest.tolist(), strict=True))
        metrics["clip_fraction"] = sum(metrics[f"clip_fraction_{side}"] for side in ("low", "high", "dual"))
        metrics["ess"] = first[0] ** 2 / (tokens * squares[0]) if squares[0] else 0.0
        metrics["ess_traces"] = first[1] ** 2 / (sequences * squares[1]) if squares[1] else 0.0
        return metrics
