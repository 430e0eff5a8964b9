"""What one learner rank computes: forward and backward over its micro-batches, one optimiser step, global metrics.

Losses are sums over tokens divided by the numbers of tokens and sequences in the whole mini-batch, which the driver
counts, so that micro-batch size, padding and the number of ranks change speed and memory only. A policy step divides
at its end, so that gradients of some traces can be computed before the others are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from actors.learner.batching import Batch, collate
from actors.learner.copies import Copier
from actors.learner.corrections import importance_weights
from actors.learner.lora import without_adapters
from actors.learner.model import Judge, synchronise_gradients
from actors.learner.objectives import kl_divergence, loss_divisor, policy_loss, token_weights
from actors.learner.optimizers import (
    clip_gradients,
    learning_rate_factor,
    scale_gradients,
    scale_learning_rates,
)
from actors.learner.parking import Parking, kept
from actors.learner.settings import OptimizerSettings, PolicySettings
from actors.learner.tally import PolicyTally
from actors.messages import TrainingSequence

MicroBatches = Sequence[Sequence[TrainingSequence]]


@dataclass
class Trainer:
    """A rank's model, optimisers and place in the schedule."""

    judge: Judge
    reference: Judge | None
    """Frozen. With LoRA, the judge itself with adapters scaled to 0."""
    optimizers: list[torch.optim.Optimizer]
    settings: OptimizerSettings
    group: Any
    device: str
    accumulate: bool = False
    """Reduce gradients once per step instead of once per micro-batch."""
    attention: str | None = None
    """Of packed rows, which micro-batches then are; None: padded rows."""
    tally: PolicyTally = field(default_factory=PolicyTally)
    """Measures the policy step that is under way."""
    moved: Callable[[], None] = lambda: None
    """Called after each micro-batch."""
    copier: Copier | None = None
    """Copies all this after each step."""
    step: int = 0
    skipped: int = 0
    parking: Parking = field(init=False)

    def __post_init__(self) -> None:
        self.parking = Parking(self.device)

    def leave_device(self) -> None:
        """Move what is kept between steps into the machine's memory; nothing can be computed until it is back."""
        models = dict.fromkeys(model for model in (self.judge, self.reference) if model is not None)
        self.parking.leave(kept(models, self.optimizers))

    def take_device(self) -> None:
        """Move it back."""
        self.parking.come_back()


def supervised_step(trainer: Trainer, micro_batches: MicroBatches, global_tokens: int) -> dict[str, float]:
    """One optimiser step on cross-entropy of completion tokens: -sum log p / global_tokens."""
    totals = torch.zeros(1, dtype=torch.float64)
    for index, sequences in enumerate(micro_batches):
        if trainer.accumulate:
            synchronise_gradients(trainer.judge, index == len(micro_batches) - 1)
        batch = collate(sequences, trainer.device, trainer.attention)
        logprobs, _ = trainer.judge(batch)
        loss = -logprobs.sum() / global_tokens
        loss.backward()
        totals[0] += loss.item()
        trainer.moved()
    dist.all_reduce(totals, group=trainer.group)
    return {"loss": float(totals[0]), "tokens": float(global_tokens)} | optimizer_step(trainer)


def policy_step(
    trainer: Trainer,
    micro_batches: MicroBatches,
    settings: PolicySettings,
    global_tokens: int,
    global_sequences: int,
) -> dict[str, float]:
    """One optimiser step on the policy loss, KL to the reference and entropy bonus, divided by global counts.

    The step is on these traces and on those that :func:`add_policy_gradients` got since the step before.
    """
    add_policy_gradients(trainer, micro_batches, settings, last=True)
    divisor = loss_divisor(settings.aggregation, global_tokens, global_sequences)
    scale_gradients(trainer.judge.parameters(), 1 / divisor)
    metrics = trainer.tally.metrics(global_tokens, global_sequences, divisor, trainer.group)
    trainer.tally = PolicyTally()
    if not _measures_kl(trainer, settings):
        del metrics["kl"]
    return metrics | {"tokens": float(global_tokens)} | optimizer_step(trainer)


def add_policy_gradients(
    trainer: Trainer, micro_batches: MicroBatches, settings: PolicySettings, last: bool = False
) -> None:
    """Add up gradients of the policy loss, not yet divided by global counts, and what the step measures.

    With ``accumulate``, ranks reduce gradients after the last micro-batch of a call with ``last``.
    """
    for index, sequences in enumerate(micro_batches):
        if trainer.accumulate:
            synchronise_gradients(trainer.judge, last and index == len(micro_batches) - 1)
        batch = collate(sequences, trainer.device, trainer.attention)
        # Before the policy's forward: with adapters, both are passes of one model.
        measured = _measures_kl(trainer, settings)
        reference = _reference_logprobs(trainer, batch, settings.temperature) if measured else None
        logprobs, entropies = trainer.judge(batch, settings.temperature)
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        sampled = logprobs.detach() if batch.rollout_logprobs is None else batch.rollout_logprobs
        weights = token_weights(batch.counts, settings.aggregation, settings.fixed_length, trainer.device)
        policy = policy_loss(logprobs, old, batch.advantages, batch.counts, settings)
        correction = importance_weights(
            old,
            sampled,
            batch.counts,
            kind=settings.correction,
            level=settings.correction_level,
            floor=settings.correction_floor,
            limit=settings.correction_limit,
        )
        losses = weights * correction.weights * policy.losses
        kl = torch.zeros_like(losses)
        if reference is not None:
            kl = kl_divergence(logprobs, reference, settings.kl_estimator)
        terms = losses + weights * settings.kl_coefficient * kl
        if settings.entropy_coefficient:
            terms = terms - weights * settings.entropy_coefficient * entropies
        terms.sum().backward()
        trainer.moved()
        if sequences:
            # Compare under the weights that sampled; later mini-batches have moved.
            unmoved = old if settings.old_logprobs == "learner" else logprobs
            trainer.tally.add(terms, losses, kl, entropies, policy, correction, unmoved - sampled, batch.counts)


def _measures_kl(trainer: Trainer, settings: PolicySettings) -> bool:
    return trainer.reference is not None and settings.kl_coefficient > 0


@torch.no_grad()
def _reference_logprobs(trainer: Trainer, batch: Batch, temperature: float) -> torch.Tensor:
    """The reference's log-probabilities, [N]; an error where no reference was loaded."""
    if trainer.reference is None:
        raise RuntimeError("the learner was loaded without a reference policy, so there is no KL to it")
    with without_adapters(trainer.reference):
        return trainer.reference(batch, temperature)[0]


def optimizer_step(trainer: Trainer) -> dict[str, float]:
    """Clip, set the schedule's learning rate, step. A gradient that is not finite skips the step and is counted."""
    if trainer.copier is not None:
        # Before the ranks meet for the norm, so that beyond it the last copy is whole on all of them.
        trainer.copier.finish()
    factor = learning_rate_factor(trainer.settings, trainer.step)
    norm = clip_gradients(trainer.judge.parameters(), trainer.settings.gradient_clip, trainer.group)
    if math.isfinite(norm):
        scale_learning_rates(trainer.optimizers, factor)
        for optimizer in trainer.optimizers:
            optimizer.step()
    else:
        trainer.skipped += 1
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)
    trainer.step += 1
    if trainer.copier is not None:
        trainer.copier.begin(trainer)
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
        batch = collate(sequences, trainer.device, trainer.attention)
        logprobs, _ = trainer.judge(batch, temperature)
        trainer.moved()
        parts = logprobs.cpu().split(list(batch.counts)) if batch.counts else []
        results.append([part.numpy() for part in parts])
    return results


@torch.no_grad()
def kl_to_reference(
    trainer: Trainer, micro_batches: MicroBatches, estimator: str, temperature: float
) -> list[list[np.ndarray]]:
    """KL(engine's policy || reference) of every completion token ([L] float32), as the micro-batches are cut."""
    results: list[list[np.ndarray]] = []
    for sequences in micro_batches:
        batch = collate(sequences, trainer.device, trainer.attention)
        reference = _reference_logprobs(trainer, batch, temperature)
        trainer.moved()
        if batch.rollout_logprobs is None:
            # A batch without sequences: this rank only took part in the others' collectives.
            results.append([])
            continue
        kl = kl_divergence(batch.rollout_logprobs, reference, estimator).cpu()
        results.append([part.numpy() for part in kl.split(list(batch.counts))])
    return results
