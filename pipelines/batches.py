"""From scored groups to what the learners train on, and the numbers that describe a rollout batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors.learner.advantages import group_advantages
from actors.messages import ScoredGroup, TrainingSequence
from pipelines.config import Algorithm


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
        """Whether the ratio's denominator is left to the learner."""
        return any(sequence.old_logprobs is None for sequence in self.sequences())

    def with_old_logprobs(self, logprobs: Sequence[np.ndarray]) -> PolicyBatch:
        """The same batch with the ratio's denominator set; one array ([L] float32) a sequence, in order."""
        old = iter(logprobs)
        renewed = tuple(
            tuple(replace(sequence, old_logprobs=next(old)) for sequence in batch) for batch in self.mini_batches
        )
        return replace(self, mini_batches=renewed)


def policy_batch(
    groups: Sequence[ScoredGroup], algorithm: Algorithm, mini_batch_prompts: int, weight_version: int
) -> PolicyBatch:
    """Group-standardised advantages (GRPO) for every trace, and the batch's statistics.

    A generation that failed is counted and takes no part in its group's mean. A group of fewer than two traces has
    nothing to compare and is dropped and counted; groups of equal rewards follow ``algorithm.equal_reward_groups``.
    ``weight_version`` is the learner's, against which staleness is counted.
    """
    mini_batches: list[tuple[TrainingSequence, ...]] = []
    counts: Counter[str] = Counter()
    for start in range(0, len(groups), mini_batch_prompts):
        sequences: list[TrainingSequence] = []
        for group in groups[start : start + mini_batch_prompts]:
            sequences.extend(_sequences(group, algorithm, counts))
        mini_batches.append(tuple(sequences))
    return PolicyBatch(tuple(mini_batches), _metrics(groups, counts, weight_version), _tokens(groups))


def _sequences(group: ScoredGroup, algorithm: Algorithm, counts: Counter[str]) -> list[TrainingSequence]:
    if len(group.traces) < 2:
        counts["short_groups"] += 1
        return []
    rewards = np.array([scored.reward for scored in group.traces], dtype=np.float64)
    if np.ptp(rewards) == 0:
        counts["equal_reward_groups"] += 1
        if algorithm.equal_reward_groups == "drop":
            return []
    advantages = group_advantages(rewards, normalise=algorithm.normalise_advantages)
    prompt = np.asarray(group.prompt.token_ids, dtype=np.int32)
    return [
        TrainingSequence(
            prompt_ids=prompt,
            completion_ids=scored.trace.token_ids,
            advantage=float(advantage),
            rollout_logprobs=scored.trace.logprobs,
            old_logprobs=scored.trace.logprobs if algorithm.old_logprobs == "rollout" else None,
        )
        for scored, advantage in zip(group.traces, advantages, strict=True)
    ]


def _tokens(groups: Sequence[ScoredGroup]) -> int:
    return sum(len(scored.trace.token_ids) for group in groups for scored in group.traces)


def _metrics(groups: Sequence[ScoredGroup], counts: Counter[str], weight_version: int) -> dict[str, float]:
    """Statistics of a rollout batch; shares are fractions of all traces that were generated."""
    scored = [item for group in groups for item in group.traces]
    metrics = {
        "generation_failures": float(sum(len(group.failures) for group in groups)),
        "equal_reward_groups": counts["equal_reward_groups"] / len(groups),
        "short_groups": float(counts["short_groups"]),
    }
    if not scored:
        return metrics
    labels = [group.prompt.label for group in groups for _ in group.traces]
    lengths = np.array([len(item.trace.token_ids) for item in scored])
    causes = Counter(item.verdict.cause for item in scored if item.verdict.cause is not None)
    metrics |= {
        "reward": float(np.mean([item.reward for item in scored])),
        "accuracy": float(np.mean([item.verdict.side == label for item, label in zip(scored, labels, strict=True)])),
        "parse_rate": float(np.mean([item.verdict.side is not None for item in scored])),
        "share_a": float(np.mean([item.verdict.side == "A" for item in scored])),
        "completion_tokens": float(lengths.mean()),
        "completion_tokens_max": float(lengths.max()),
        "truncated": float(np.mean([item.trace.finish_reason == "length" for item in scored])),
        "staleness": float(np.mean([weight_version - item.trace.min_version for item in scored])),
        "staleness_max": float(max(weight_version - item.trace.min_version for item in scored)),
    }
    metrics |= {f"parse_failures/{cause}": float(count) for cause, count in sorted(causes.items())}
    names = sorted({name for item in scored for name in item.parts})
    metrics |= {f"reward/{name}": float(np.mean([item.parts.get(name, 0.0) for item in scored])) for name in names}
    return metrics
