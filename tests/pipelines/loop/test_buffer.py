"""The buffer between engines and learners: staleness is bounded by when batches begin; nothing is lost or overtaken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Prompt, ScoredGroup, ScoredTrace, Trace, Verdict
from pipelines.loop.buffer import RolloutBuffer, RolloutUnderWay
from pipelines.loop.rollouts import Arrived, RolloutBatch


@given(first=st.integers(0, 5), steps=st.integers(0, 20), staleness=st.integers(0, 6))
def test_every_batch_is_taken_in_order_and_at_most_so_many_versions_after_it_began(
    first: int, steps: int, staleness: int
) -> None:
    version, begun = first, {}
    total = first + steps

    def begin(step: int) -> int:
        begun[step] = version
        return step

    buffer = RolloutBuffer(begin, first, total, staleness)
    assert len(buffer) == 0, "nothing begins before the engines have weights"
    buffer.published(first)
    for step in range(first, total):
        assert 1 <= len(buffer) <= staleness + 1
        assert buffer.take() == step
        assert step - begun[step] <= staleness
        # As far ahead as it may be: engines never wait for admission that could have been given.
        assert max(begun) == min(version + staleness, total - 1)
        version = step + 1
        buffer.published(version)
    assert list(begun) == list(range(first, total))
    assert list(buffer) == []
    with pytest.raises(IndexError):
        buffer.take()


def test_on_policy_has_one_batch_and_it_begins_with_the_weights_it_is_trained_on() -> None:
    buffer = RolloutBuffer(lambda step: step, 3, 9, 0)
    buffer.published(3)
    assert list(buffer) == [3]
    buffer.take()
    buffer.published(3)
    assert list(buffer) == [], "the same version does not begin another"
    buffer.published(4)
    assert list(buffer) == [4]


def group(uid: str, *lengths: int) -> ScoredGroup:
    """Traces of so many tokens, after a prompt of two."""
    traces = tuple(
        ScoredTrace(
            Trace(uid, sample, np.ones(length, np.int32), np.zeros(length, np.float32), "", "stop", np.zeros(length)),
            Verdict("A", None),
            1.0,
        )
        for sample, length in enumerate(lengths)
    )
    return ScoredGroup(Prompt(uid, uid, "chosen_first", "A", "chat", (1, 2)), traces)


def portions(
    play: Callable[[Arrived, Callable[[], Awaitable[None]]], Awaitable[RolloutBatch]], tokens: int
) -> tuple[list[list[str]], RolloutBatch]:
    """What comes early of a batch that is written by ``play``, which may wait until what has arrived was looked at."""

    async def run() -> tuple[list[list[str]], RolloutBatch]:
        async def looked_at() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        under_way = RolloutUnderWay(lambda arrived: play(arrived, looked_at))
        early = [[item.prompt.uid for item in portion] async for portion in under_way.portions(tokens)]
        return early, await under_way.whole()

    return asyncio.run(run())


def test_groups_come_once_and_when_they_have_the_tokens_asked_for() -> None:
    p, q, r, s = group("p", 3, 3), group("q", 3, 3), group("r", 20), group("s", 1)

    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        arrived(p)  # 2 x (2 + 3) = 10 tokens, fewer than 20
        await looked_at()
        arrived(q)  # 20
        await looked_at()
        arrived(r)  # 22
        await looked_at()
        arrived(s)
        await looked_at()
        return RolloutBatch((p, q, r, s), 1.0, 0.0)

    early, whole = portions(play, 20)
    assert early == [["p", "q"], ["r"]]
    assert [item.prompt.uid for item in whole.groups] == ["p", "q", "r", "s"]


def test_what_comes_with_the_end_is_no_portion() -> None:
    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        await looked_at()
        arrived(group("p", 50))
        return RolloutBatch((group("p", 50),), 1.0, 0.0)

    early, whole = portions(play, 20)
    assert early == []
    assert len(whole.groups) == 1


def test_an_error_ends_the_portions_and_is_raised() -> None:
    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        arrived(group("p", 50))
        await looked_at()
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        portions(play, 20)


def test_a_batch_that_is_given_up_is_cancelled() -> None:
    async def run() -> bool:
        cancelled = asyncio.Event()

        async def work(arrived: Arrived) -> RolloutBatch:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        under_way = RolloutUnderWay(work)
        await asyncio.sleep(0)
        under_way.cancel()
        await asyncio.wait_for(cancelled.wait(), 10)
        return cancelled.is_set()

    assert asyncio.run(run())


def test_batches_that_are_still_held_at_the_end_are_cancelled() -> None:
    cancelled: list[int] = []

    class Begun:
        def __init__(self, step: int) -> None:
            self.step = step

        def cancel(self) -> None:
            cancelled.append(self.step)

    with RolloutBuffer(Begun, 0, 9, 2) as buffer:
        buffer.published(0)
        assert buffer.take().step == 0
    assert cancelled == [1, 2]
