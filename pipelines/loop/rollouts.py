"""Prompts in, scored groups out: each trace is verified while others are still being written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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

Generate = Callable[[Sequence[Prompt], Sampling], AsyncIterator[list[Trace | GenerationFailure]]]
"""What writes traces, as :meth:`actors.rollout.fleet.RolloutFleet.generate` does."""


class EvaluationFailed(UserError, RuntimeError):
    """Some judgments could not be generated, so the figures would leave them out."""


class RewardsFailed(UserError, RuntimeError):
    """No trace of a rollout batch could be scored; names the component and the cause."""


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """All groups of an item (of a prompt, or of both orders of a pair), and when: seconds of one monotonic clock."""

    groups: tuple[ScoredGroup, ...]
    begun: float
    """Its prompts went to the engines."""
    written: float
    """Its last trace was written."""
    scored: float
    """All its traces were scored."""


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

    @classmethod
    def of(cls, items: Sequence[ScoredItem]) -> RolloutBatch:
        """The batch of these items, in their order.

        Raises:
            RewardsFailed: there are traces, and no reward of any could be computed.

        """
        groups = tuple(group for item in items for group in item.groups)
        _refuse_without_rewards(groups)
        if not items:
            return cls((), 0.0, 0.0)
        written = max(item.written for item in items)
        begun, scored = min(item.begun for item in items), max(item.scored for item in items)
        return cls(groups, written - begun, scored - written)


class Assembly:
    """Collects how every sample of every prompt ended, and says when an item is complete; knows no actors.

    Every sample of every prompt ends exactly once: as a scored trace, a failed generation or a failed reward.
    """

    def __init__(self, items: Sequence[Sequence[Prompt]], samples: int) -> None:
        """``items`` are told by their place in the sequence; each prompt is of one of them."""
        self.prompts = {prompt.uid: prompt for item in items for prompt in item}
        self.item_of = {prompt.uid: index for index, item in enumerate(items) for prompt in item}
        """The item of each prompt, by its uid."""
        self._items = items
        self._samples = samples
        self._left = [samples * len(item) for item in items]
        self._traces: dict[str, list[ScoredTrace]] = {}
        self._failures: dict[str, list[GenerationFailure]] = {}
        self._unscored: dict[str, list[RewardFailure]] = {}

    def add(self, end: ScoredTrace | GenerationFailure | RewardFailure) -> list[ScoredGroup]:
        """Take one sample's end; returns the item's groups if it was the item's last sample, else an empty list.

        Raises:
            RuntimeError: a sample is missing or came twice, which would train on the wrong group.

        """
        uid = end.trace.prompt_uid if isinstance(end, ScoredTrace) else end.prompt_uid
        if isinstance(end, ScoredTrace):
            self._traces.setdefault(uid, []).append(end)
        elif isinstance(end, GenerationFailure):
            self._failures.setdefault(uid, []).append(end)
        else:
            self._unscored.setdefault(uid, []).append(end)
        item = self.item_of[uid]
        self._left[item] -= 1
        return [self._group(prompt) for prompt in self._items[item]] if self._left[item] <= 0 else []

    @property
    def missing(self) -> str | None:
        """The first prompt of which not all samples have ended; None: there is none."""
        return next((item[0].uid for item, left in zip(self._items, self._left, strict=True) if left), None)

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
    generate: Generate,
    verifier: NamedActor,
    items: Sequence[Sequence[Prompt]],
    sampling: Sampling,
    *,
    arrived: Callable[[int, ScoredItem], None],
    written: Callable[[int], None] = lambda traces: None,
    timeout: float = 600.0,
    shown: Mapping[str, Shown] | None = None,
    comparing: bool = False,
) -> None:
    """Generate ``sampling.samples`` traces for every prompt and score each as it arrives.

    Args:
        generate: writes the traces.
        verifier: scores them.
        items: one prompt each, or both orders of a pair; no prompt is in two of them.
        sampling: how many traces of each prompt, and how.
        arrived: called with the index of each item when it is complete, and what it is.
        written: called with how many traces were written, or failed, since the last time.
        timeout: seconds that verification may take after the last trace was written.
        shown: what each prompt shows, by its uid; needed by users' reward functions only.
        comparing: whether some reward component compares traces, so that complete items go to the verifier once more.

    Raises:
        DeadlineExceeded, ActorFailed: from those who write, or the verifier.
        RuntimeError: a trace is missing or came twice.

    """
    begun = time.monotonic()
    assembly = Assembly(items, sampling.samples)
    last_written = [begun] * len(items)
    texts = shown or {}

    async def add(ends: Sequence[ScoredTrace | GenerationFailure | RewardFailure]) -> None:
        for end in ends:
            groups = assembly.add(end)
            if groups and comparing:
                groups = await verifier.handle.compare.remote(groups, [texts.get(group.prompt.uid) for group in groups])
            if groups:
                item = assembly.item_of[groups[0].prompt.uid]
                arrived(item, ScoredItem(tuple(groups), begun, last_written[item], time.monotonic()))

    async def verify(traces: Sequence[Trace]) -> None:
        prompts = [assembly.prompts[trace.prompt_uid] for trace in traces]
        requests = [
            VerificationRequest(
                *(trace, prompt.label, prompt.pair_id, prompt.order, prompt.domain, texts.get(prompt.uid)),
                judged=prompt.judged,
                responses=prompt.responses,
            )
            for trace, prompt in zip(traces, prompts, strict=True)
        ]
        await add(await verifier.handle.score.remote(requests))

    verifying: list[asyncio.Task[None]] = []
    try:
        async for finished in generate([prompt for item in items for prompt in item], sampling):
            for end in finished:
                last_written[assembly.item_of[end.prompt_uid]] = time.monotonic()
            written(len(finished))
            failures = [item for item in finished if isinstance(item, GenerationFailure)]
            traces = [item for item in finished if isinstance(item, Trace)]
            if failures:
                verifying.append(asyncio.create_task(add(failures)))
            if traces:
                verifying.append(asyncio.create_task(verify(traces)))
        await wait(asyncio.gather(*verifying), timeout, "rewards after the last trace", verifier)
    finally:
        for task in verifying:
            task.cancel()
    if (uid := assembly.missing) is not None:
        raise RuntimeError(f"prompt {uid}: not all of its {sampling.samples} samples came, nor of its pair's")


def _refuse_without_rewards(groups: Sequence[ScoredGroup]) -> None:
    unscored = [failure for group in groups for failure in group.unscored]
    if unscored and not any(group.traces for group in groups):
        first = unscored[0]
        raise RewardsFailed(
            f"none of {len(unscored)} traces could be scored; first: prompt {first.prompt_uid}: reward component "
            f"{first.component!r}: {first.cause}: {first.detail}"
        )


async def refilled(
    batch: RolloutBatch,
    round_of: Callable[[int, int], Awaitable[RolloutBatch]],
    useful: Callable[[ScoredGroup], bool],
    wanted: int,
    rounds: int,
) -> RolloutBatch:
    """Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): generate on until ``wanted`` groups are useful.

    Args:
        batch: what there is.
        round_of: generates a round, given its number (from 1) and how many groups are missing.
        useful: whether a group teaches something.
        wanted: how many useful groups to reach.
        rounds: how many rounds there may be; a batch that is still short after them is trained on as it is.

    """
    batch = replace(batch, wanted=wanted)
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
