"""Judging, of held-out pairs and of benchmarks alike: prompts go to the rollout workers, traces come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from actors.rollout.fleet import RolloutFleet
from pipelines.loop.rollouts import EvaluationFailed


async def traces_of(fleet: RolloutFleet, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
    """The trace of every prompt, in lists as they come.

    Raises:
        EvaluationFailed: generations failed; raised when all others have come. Figures over those alone would not be
            comparable.

    """
    failures: list[GenerationFailure] = []
    async for finished in fleet.generate(prompts, sampling):
        failures += [item for item in finished if isinstance(item, GenerationFailure)]
        yield [item for item in finished if isinstance(item, Trace)]
    if failures:
        first = failures[0]
        raise EvaluationFailed(
            f"{len(failures)} of {len(prompts)} judgments failed; first: {first.prompt_uid}: {first.cause}: "
            f"{first.detail}; run the same command again: what is logged is not judged again"
        )
