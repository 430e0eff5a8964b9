"""One rollout batch: prompts in, scored groups out, each trace verified while others are still being written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.deadlines import NamedActor, wait
from actors.errors import UserError
from actors.messages import (
    GenerationFailure,
    Prompt,
    RewardFailure,
    Sampling,
    ScoredGroup,
    ScoredTrace,
    Shown,
    Trace,
    VerificationRequest,
)
from actors.rollout.fleet import RolloutFleet

Arrived = Callable[[ScoredGroup], None]
"""Called with each group when it is complete."""


class EvaluationFailed(UserError, RuntimeError):
    """Some judgments could not be generated, so the figures would leave them out."""


class RewardsFailed(UserError, RuntimeError):
    """No trace of a rollout batch could be scored; names the component and the cause."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Scored groups in the order of their prompts, and where the time went."""

    groups: tuple[ScoredGroup, ...]
    generate_seconds: float
    """From the first request to the last trace."""
    verify_seconds: float
    """How long verification went on after that; before, it ran while traces were being written."""
    refills: int = 0
    """Rounds of generation beyond the first."""
    wanted: int | None = None
    """With refills, how many useful groups were asked for."""


class Assembly:
    """Collects how every sample of every prompt ended, and says when a pair is complete; knows no actors.

    Every sample of every prompt ends exactly once: as a scored trace, a failed generation or a failed reward.
    """

    def __init__(self, prompts: Sequence[Prompt], samples: int) -> None:
        self.prompts = {prompt.uid: prompt for prompt in prompts}
        self._samples = samples
        self._pairs: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self._pairs.setdefault(prompt.pair_id, []).append(prompt)
        self._left = {pair: samples * len(members) for pair, members in self._pairs.items()}
        self._traces: dict[str, list[ScoredTrace]] = {}
        self._failures: dict[str, list[GenerationFailure]] = {}
        self._unscored: dict[str, list[RewardFailure]] = {}

    def add(self, item: ScoredTrace | GenerationFailure | RewardFailure) -> list[ScoredGroup]:
        """Take one sample's end; returns the pair's groups if it was the pair's last sample, else an empty list.

        Raises:
            RuntimeError: a sample is missing or came twice, which would train on the wrong group.

        """
        uid = item.trace.prompt_uid if isinstance(item, ScoredTrace) else item.prompt_uid
        if isinstance(item, ScoredTrace):
            self._traces.setdefault(uid, []).append(item)
        elif isinstance(item, GenerationFailure):
            self._failures.setdefault(uid, []).append(item)
        else:
            self._unscored.setdefault(uid, []).append(item)
        pair = self.prompts[uid].pair_id
        self._left[pair] -= 1
        return [self._group(prompt) for prompt in self._pairs[pair]] if self._left[pair] <= 0 else []

    def _ended(self, uid: str) -> list[int]:
        parts = (self._failures.get(uid, []), self._unscored.get(uid, []))
        return sorted(
            [item.trace.sample for item in self._traces.get(uid, [])] + [item.sample for part in parts for item in part]
        )

    def _group(self, prompt: Prompt) -> ScoredGroup:
        seen = self._ended(prompt.uid)
        if seen != list(range(self._samples)):
            raise RuntimeError(f"prompt {prompt.uid}: expected samples 0..{self._samples - 1} once each, got {seen}")
        return ScoredGroup(
            prompt,
            tuple(sorted(self._traces.get(prompt.uid, []), key=lambda item: item.trace.sample)),
            tuple(sorted(self._failures.get(prompt.uid, []), key=lambda item: item.sample)),
            tuple(sorted(self._unscored.get(prompt.uid, []), key=lambda item: item.sample)),
        )


async def collect(
    fleet: RolloutFleet,
    verifier: NamedActor,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    timeout: float = 600.0,
    shown: Mapping[str, Shown] | None = None,
    comparing: bool = False,
    arrived: Arrived | None = None,
) -> RolloutBatch:
    """Generate ``sampling.samples`` traces for every prompt and score each as it arrives, each pair as it completes.

    Args:
        fleet: writes the traces.
        verifier: scores them.
        prompts: each once, with both orders of a pair where there are two.
        sampling: how many traces of each, and how.
        timeout: seconds that verification may take after the last trace was written.
        shown: what each prompt shows, by its uid; needed by users' reward functions only.
        comparing: whether some reward component compares traces, so that complete pairs go to the verifier once more.
        arrived: called with each group as soon as it is complete.

    Raises:
        DeadlineExceeded, ActorFailed: from the fleet or the verifier.
        RewardsFailed: no trace at all could be scored.
        RuntimeError: a trace is missing or came twice.

    """
    started = time.monotonic()
    assembly = Assembly(prompts, sampling.samples)
    texts = shown or {}
    done: dict[str, ScoredGroup] = {}

    async def add(items: Sequence[ScoredTrace | GenerationFailure | RewardFailure]) -> None:
        for item in items:
            groups = assembly.add(item)
            if groups and comparing:
                groups = await verifier.handle.compare.remote(groups, [texts.get(group.prompt.uid) for group in groups])
            done.update({group.prompt.uid: group for group in groups})
            if arrived is not None:
                for group in groups:
                    arrived(group)

    async def verify(traces: Sequence[Trace]) -> None:
        prompts = [assembly.prompts[trace.prompt_uid] for trace in traces]
        requests = [
            VerificationRequest(trace, prompt.label, prompt.pair_id, prompt.order, prompt.domain, texts.get(prompt.uid))
            for trace, prompt in zip(traces, prompts, strict=True)
        ]
        await add(await verifier.handle.score.remote(requests))

    verifying: list[asyncio.Task[None]] = []
    try:
        async for finished in fleet.generate(prompts, sampling):
            failures = [item for item in finished if isinstance(item, GenerationFailure)]
            traces = [item for item in finished if isinstance(item, Trace)]
            if failures:
                verifying.append(asyncio.create_task(add(failures)))
            if traces:
                verifying.append(asyncio.create_task(verify(traces)))
        generated = time.monotonic()
        await wait(asyncio.gather(*verifying), timeout, "rewards after the last trace", verifier)
    finally:
        for task in verifying:
            task.cancel()
    if missing := [prompt.uid for prompt in prompts if prompt.uid not in done]:
        raise RuntimeError(f"prompt {missing[0]}: not all of its {sampling.samples} samples came, nor of its pair's")
    groups = tuple(done[prompt.uid] for prompt in prompts)
    _refuse_without_rewards(groups)
    return RolloutBatch(groups, generated - started, time.monotonic() - generated)


async def together(collections: Sequence[Coroutine[Any, Any, RolloutBatch]]) -> RolloutBatch:
    """Run several collections at the same time and join them, in their order, to one batch.

    A prompt that occurs twice in a batch needs two: within one, each prompt occurs once.
    """
    tasks = [asyncio.create_task(collection) for collection in collections]
    try:
        batches = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return RolloutBatch(
        tuple(group for batch in batches for group in batch.groups),
        max((batch.generate_seconds for batch in batches), default=0.0),
        max((batch.verify_seconds for batch in batches), default=0.0),
    )


def _refuse_without_rewards(groups: Sequence[ScoredGroup]) -> None:
    unscored = [failure for group in groups for failure in group.unscored]
    if unscored and not any(group.traces for group in groups):
        first = unscored[0]
        raise RewardsFailed(
            f"none of {len(unscored)} traces could be scored; first: prompt {first.prompt_uid}: reward component "
            f"{first.component!r}: {first.cause}: {first.detail}"
        )


async def refilled(
    round_of: Callable[[int, int], Awaitable[RolloutBatch]],
    useful: Callable[[ScoredGroup], bool],
    wanted: int,
    rounds: int,
) -> RolloutBatch:
    """Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): generate on until ``wanted`` groups are useful.

    Args:
        round_of: generates a round, given its number and how many groups are missing. Round 0 is the batch itself.
        useful: whether a group teaches something.
        wanted: how many useful groups to reach.
        rounds: how many rounds may follow the first; a batch that is still short after them is trained on as it is.

    """
    batch = replace(await round_of(0, wanted), wanted=wanted)
    for number in range(1, rounds + 1):
        missing = wanted - sum(useful(group) for group in batch.groups)
        if missing <= 0:
            break
        more = await round_of(number, missing)
        batch = RolloutBatch(
            (*batch.groups, *more.groups),
            batch.generate_seconds + more.generate_seconds,
            batch.verify_seconds + more.verify_seconds,
            number,
            wanted,
        )
    return batch
