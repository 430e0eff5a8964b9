"""From scored groups to training sequences with advantages, and the metrics of a rollout batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.learner.advantages import group_advantages, returns_to_go, standardise_batch
from actors.learner.choices import ADVANTAGES
from actors.messages import ScoredGroup, TrainingSequence
from pipelines.config import Algorithm
from pipelines.loop.metrics import rollout_metrics
from pipelines.loop.rollouts import RewardsFailed


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """One rollout batch, cut into mini-batches of whole groups."""

    mini_batches: tuple[tuple[TrainingSequence, ...], ...]
    metrics: dict[str, float]
    tokens: int
    """Generated tokens, those of dropped groups included."""

    def sequences(self) -> list[TrainingSequence]:
        """All sequences, in order."""
        return [sequence for batch in self.mini_batches for sequence in batch]

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether the learner has to compute the ratio's denominator."""
        return any(sequence.old_logprobs is None for sequence in self.sequences())

    def with_old_logprobs(self, logprobs: Sequence[np.ndarray]) -> PolicyBatch:
        """The same batch with the ratio's denominator set: one array ([L] float32) per sequence, in order."""
        old = iter(logprobs)
        renewed = tuple(
            tuple(replace(sequence, old_logprobs=next(old)) for sequence in batch) for batch in self.mini_batches
        )
        return replace(self, mini_batches=renewed)


Penalise = Callable[[Sequence[TrainingSequence]], Sequence[np.ndarray]]
"""Sequences -> KL to the reference at each of their tokens ([L]), in order."""


def is_useful(group: ScoredGroup) -> bool:
    """Whether the group's rewards differ, so that comparing its traces teaches something."""
    rewards = [scored.reward for scored in group.traces]
    return len(rewards) > 1 and max(rewards) != min(rewards)


def policy_batch(
    groups: Sequence[ScoredGroup],
    algorithm: Algorithm,
    mini_batch_prompts: int,
    weight_version: int,
    *,
    wanted: int | None = None,
    on_failure: str = "drop_trace",
    penalise: Penalise | None = None,
) -> PolicyBatch:
    """Mini-batches of all traces that are trained on, with advantages; metrics of all traces that were generated.

    A failed generation or reward is counted and takes no part in its group's mean. Groups with too few traces to
    compare are dropped and counted; ``algorithm.equal_reward_groups`` says what becomes of groups of equal rewards.

    Args:
        groups: of one rollout batch, refills included.
        algorithm: how advantages are made.
        mini_batch_prompts: groups per mini-batch.
        weight_version: the learner's, against which staleness is counted.
        wanted: with refills, how many useful groups to train on; None: all.
        on_failure: what to do about a failed reward: `drop_trace`, `drop_group` or `stop`.
        penalise: measures the KL, if it is part of the reward; ``algorithm.kl_coefficient`` weighs it.

    Raises:
        RewardsFailed: a reward failed and ``on_failure`` says to stop.

    """
    counts: Counter[str] = Counter()
    kept = [_training_group(group, algorithm, on_failure, counts) for group in groups]
    if algorithm.equal_reward_groups == "refill":
        kept = [*[group for group in kept if group is not None][:wanted]]
    mini_batches = [
        [group for group in kept[start : start + mini_batch_prompts] if group is not None]
        for start in range(0, len(kept), mini_batch_prompts)
    ]
    flat = [group for batch in mini_batches for group in batch]
    sequences = [_sequences(group, algorithm) for group in flat]
    penalties = list(penalise([item for group in sequences for item in group])) if penalise and flat else None
    taught = iter(_with_advantages(flat, sequences, algorithm, penalties))
    cut = tuple(tuple(sequence for _ in batch for sequence in next(taught)) for batch in mini_batches)
    metrics = rollout_metrics(groups, weight_version) | {
        "equal_reward_groups": counts["equal_reward_groups"] / len(groups),
        "short_groups": float(counts["short_groups"]),
    }
    if penalties:
        metrics["kl"] = float(np.concatenate(penalties).mean(dtype=np.float64))
    return PolicyBatch(cut, metrics, sum(len(item.trace.token_ids) for group in groups for item in group.traces))


def _training_group(
    group: ScoredGroup, algorithm: Algorithm, on_failure: str, counts: Counter[str]
) -> ScoredGroup | None:
    """The group, or None where it is dropped."""
    if group.unscored and on_failure == "stop":
        failure = group.unscored[0]
        raise RewardsFailed(
            f"prompt {failure.prompt_uid}: reward component {failure.component!r}: {failure.cause}: {failure.detail} "
            "(verifier.on_failure=drop_trace goes on without such traces)"
        )
    needed = 2 if ADVANTAGES[algorithm.advantage].needs_group else 1
    if len(group.traces) < needed or (group.unscored and on_failure == "drop_group"):
        counts["short_groups"] += 1
        return None
    if len(group.traces) > 1 and not is_useful(group):
        counts["equal_reward_groups"] += 1
        if algorithm.equal_reward_groups != "keep":
            return None
    return group


def _sequences(group: ScoredGroup, algorithm: Algorithm) -> list[TrainingSequence]:
    """The group's traces, advantages still to come."""
    prompt = np.asarray(group.prompt.token_ids, dtype=np.int32)
    return [
        TrainingSequence(
            prompt_ids=prompt,
            completion_ids=scored.trace.token_ids,
            rollout_logprobs=scored.trace.logprobs,
            old_logprobs=scored.trace.logprobs if algorithm.old_logprobs == "rollout" else None,
        )
        for scored in group.traces
    ]


def _with_advantages(
    groups: Sequence[ScoredGroup],
    sequences: Sequence[Sequence[TrainingSequence]],
    algorithm: Algorithm,
    penalties: Sequence[np.ndarray] | None,
) -> list[list[TrainingSequence]]:
    """The groups' sequences with their advantages; ``penalties`` are the KL at each token, [L] per trace, in order."""
    kl, advantage = iter(penalties or []), ADVANTAGES[algorithm.advantage]
    values: list[list[np.ndarray]] = []
    for group, mine in zip(groups, sequences, strict=True):
        rewards = np.array([item.reward for item in group.traces], dtype=np.float64)
        costs = [
            algorithm.kl_coefficient * np.asarray(next(kl), dtype=np.float64)
            if penalties
            else np.zeros(len(item.completion_ids))
            for item in mine
        ]
        if advantage.needs_group:
            of_group = group_advantages(rewards - [cost.sum() for cost in costs], algorithm.advantage)
            values.append([np.full(len(cost), value) for value, cost in zip(of_group, costs, strict=True)])
        else:
            of_group = group_advantages(rewards, algorithm.advantage)
            values.append([returns_to_go(value, cost) for value, cost in zip(of_group, costs, strict=True)])
    if advantage.over_batch:
        whole = iter(standardise_batch([value for group in values for value in group]))
        values = [[next(whole) for _ in group] for group in values]
    return [
        [replace(item, advantage=value.astype(np.float32)) for item, value in zip(mine, of_traces, strict=True)]
        for mine, of_traces in zip(sequences, values, strict=True)
    ]
