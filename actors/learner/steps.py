"""What one learner rank computes: forward and backward over its micro-batches, one optimiser step, global metrics.

Losses are sums over tokens divided by the number of tokens in the whole mini-batch, which the driver counts, so that
micro-batch size, padding and the number of ranks change speed and memory only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from actors.learner.batching import PaddedBatch, collate
from actors.learner.model import Judge, synchronise_gradients
from actors.learner.objectives import clipped_policy_loss, kl_divergence
from actors.learner.optimizers import clip_gradients, learning_rate_factor
from actors.learner.settings import OptimizerSettings, PolicySettings
from actors.messages import TrainingSequence

MicroBatches = Sequence[Sequence[TrainingSequence]]


@dataclass
class Trainer:
    """A rank's model, optimisers and place in the schedule."""

    judge: Judge
    reference: Judge | None
    optimizers: list[torch.optim.Optimizer]
    settings: OptimizerSettings
    group: Any
    device: str
    accumulate: bool = False
    """Reduce gradients once a step instead of once a micro-batch."""
    step: int = 0
    skipped: int = 0


def supervised_step(trainer: Trainer, micro_batches: MicroBatches, global_tokens: int) -> dict[str, float]:
    """One optimiser step on cross-entropy of completion tokens: -sum log p / global_tokens."""
    totals = torch.zeros(1, dtype=torch.float64)
    for index, sequences in enumerate(micro_batches):
        if trainer.accumulate:
            synchronise_gradients(trainer.judge, index == len(micro_batches) - 1)
        batch = collate(sequences, trainer.device)
        logprobs, _ = trainer.judge(batch)
        loss = -logprobs.sum() / global_tokens
        loss.backward()
        totals[0] += loss.item()
    dist.all_reduce(totals, group=trainer.group)
    return {"loss": float(totals[0]), "tokens": float(global_tokens)} | optimizer_step(trainer)


def policy_step(
    trainer: Trainer, micro_batches: MicroBatches, settings: PolicySettings, global_tokens: int
) -> dict[str, float]:
    """One optimiser step on the clipped policy loss plus KL to the reference, a mean over the mini-batch's tokens."""
    sums, largest = torch.zeros(7, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for index, sequences in enumerate(micro_batches):
        if trainer.accumulate:
            synchronise_gradients(trainer.judge, index == len(micro_batches) - 1)
        batch = collate(sequences, trainer.device)
        logprobs, entropies = trainer.judge(batch, settings.temperature)
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        losses, ratios, clipped = clipped_policy_loss(
            logprobs, old, batch.advantages, settings.clip_low, settings.clip_high
        )
        kl = torch.zeros_like(losses)
        if trainer.reference is not None:
            with torch.no_grad():
                reference, _ = trainer.reference(batch, settings.temperature)
            kl = kl_divergence(logprobs, reference, settings.kl_estimator)
        loss = (losses + settings.kl_coefficient * kl).sum() / global_tokens
        loss.backward()
        if not sequences:
            continue
        off = _difference(logprobs.detach(), batch)
        with torch.no_grad():
            sums += (
                torch.stack(
                    [
                        loss * global_tokens,
                        losses.sum(),
                        kl.sum(),
                        entropies.sum(),
                        clipped.sum(),
                        ratios.sum(),
                        off.sum(),
                    ]
                )
                .double()
                .cpu()
            )
            largest = torch.maximum(largest, torch.stack([ratios.max(), off.max()]).double().cpu())
    dist.all_reduce(sums, group=trainer.group)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=trainer.group)
    means = (sums / global_tokens).tolist()
    names = ("loss", "policy_loss", "kl", "entropy", "clip_fraction", "ratio_mean", "logprob_difference")
    metrics = dict(zip(names, means, strict=True))
    metrics |= {"ratio_max": float(largest[0]), "logprob_difference_max": float(largest[1])}
    return metrics | {"tokens": float(global_tokens)} | optimizer_step(trainer)


def _difference(logprobs: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """|learner - engine| log-probability of every token; zeros where the engine's are not there."""
    if batch.rollout_logprobs is None:
        return torch.zeros_like(logprobs)
    return (logprobs - batch.rollout_logprobs).abs()


def optimizer_step(trainer: Trainer) -> dict[str, float]:
    """Clip, set the schedule's learning rate, step. A gradient that is not finite skips the step and is counted."""
    factor = learning_rate_factor(trainer.settings, trainer.step)
    norm = clip_gradients(trainer.judge.parameters(), trainer.settings.gradient_clip, trainer.group)
    if math.isfinite(norm):
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
    else:
        trainer.skipped += 1
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)
    trainer.step += 1
    return {
        "grad_norm": norm,
        "learning_rate": trainer.settings.learning_rate * factor,
        "skipped_steps": float(trainer.skipped),
    }


@torch.no_grad()
def completion_logprobs(trainer: Trainer, micro_batches: MicroBatches, temperature: float) -> list[list[np.ndarray]]:
    """Log-probabilities ([L] float32) of every completion under the current weights, as the micro-batches are cut."""
    results: list[list[np.ndarray]] = []
    for sequences in micro_batches:
        batch = collate(sequences, trainer.device)
        logprobs, _ = trainer.judge(batch, temperature)
        parts = logprobs.cpu().split(list(batch.counts)) if batch.counts else []
        results.append([part.numpy() for part in parts])
    return results
