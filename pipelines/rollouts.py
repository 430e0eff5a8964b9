"""One rollout batch: prompts in, scored groups out, each trace verified while others are still being written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.messages import GenerationFailure, Prompt, Sampling, ScoredGroup, ScoredTrace, Trace
from actors.rollout.fleet import RolloutFleet


class EvaluationFailed(RuntimeError):
    """Some judgments could not be generated, so the figures would leave them out."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Scored groups in the order of their prompts, and where the time went."""

    groups: tuple[ScoredGroup, ...]
    generate_seconds: float
    """Until the last trace was written."""
    verify_seconds: float
    """What verification took beyond that: the rest ran while traces were being written."""


async def collect(
    fleet: RolloutFleet,
    verifier: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    progress: Callable[[int], None] | None = None,
) -> RolloutBatch:
    """Generate ``sampling.samples`` traces for every prompt and score each as it arrives.

    ``verifier`` is the Ray handle of a reward verifier. ``progress`` is told how many traces have arrived.

    Raises:
        DeadlineExceeded, ActorFailed: from the fleet or the verifier.
        RuntimeError: a trace is missing or came twice, which would train on the wrong group.

    """
    started = time.monotonic()
    labels = {prompt.uid: prompt.label for prompt in prompts}
    scoring: list[Any] = []
    failures: dict[str, list[GenerationFailure]] = {}
    arrived = 0
    async for finished in fleet.generate(prompts, sampling):
        traces = [item for item in finished if isinstance(item, Trace)]
        for item in finished:
            if isinstance(item, GenerationFailure):
                failures.setdefault(item.prompt_uid, []).append(item)
        if traces:
            scoring.append(verifier.score.remote([(trace, labels[trace.prompt_uid]) for trace in traces]))
        arrived += len(finished)
        if progress is not None:
            progress(arrived)
    generated = time.monotonic()
    scored: dict[str, list[ScoredTrace]] = {}
    for batch in await asyncio.gather(*scoring):
        for item in batch:
            scored.setdefault(item.trace.prompt_uid, []).append(item)
    groups = tuple(_group(prompt, scored, failures, sampling.samples) for prompt in prompts)
    return RolloutBatch(groups, generated - started, time.monotonic() - generated)


def _group(
    prompt: Prompt,
    scored: dict[str, list[ScoredTrace]],
    failures: dict[str, list[GenerationFailure]],
    samples: int,
) -> ScoredGroup:
    traces = sorted(scored.get(prompt.uid, []), key=lambda item: item.trace.sample)
    failed = sorted(failures.get(prompt.uid, []), key=lambda item: item.sample)
    seen = sorted([item.trace.sample for item in traces] + [item.sample for item in failed])
    if seen != list(range(samples)):
        raise RuntimeError(f"prompt {prompt.uid}: expected samples 0..{samples - 1} once each, got {seen}")
    return ScoredGroup(prompt, tuple(traces), tuple(failed))
