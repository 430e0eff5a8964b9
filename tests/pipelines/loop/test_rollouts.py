"""How a rollout batch comes together: pairs complete once, refills go on until enough groups teach something."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors.messages import GenerationFailure, Prompt, RewardFailure, ScoredGroup, ScoredTrace, Trace, Verdict
from pipelines.loop.rollouts import Assembly, RolloutBatch, refilled, together

PROMPTS = [
    Prompt("p/chosen_first", "p", "chosen_first", "A", "chat", (1,)),
    Prompt("p/chosen_second", "p", "chosen_second", "B", "chat", (1,)),
    Prompt("q/chosen_first", "q", "chosen_first", "A", "chat", (1,)),
]


def scored(uid: str, sample: int, reward: float = 1.0) -> ScoredTrace:
    versions = np.zeros(1, np.int32)
    trace = Trace(uid, sample, np.ones(1, np.int32), np.zeros(1, np.float32), "", "stop", versions)
    return ScoredTrace(trace, Verdict("A", None), reward)


def test_a_pair_is_complete_when_every_sample_of_both_orders_has_ended_once() -> None:
    assembly = Assembly(PROMPTS, 2)
    assert assembly.add(scored("p/chosen_first", 1)) == []
    assert assembly.add(GenerationFailure("p/chosen_second", 1, "engine_error", "")) == []
    assert assembly.add(scored("q/chosen_first", 0)) == []
    assert assembly.add(RewardFailure("p/chosen_first", 0, "mine", "timeout", "")) == []
    first, second = assembly.add(scored("p/chosen_second", 0))
    assert [group.prompt.uid for group in (first, second)] == ["p/chosen_first", "p/chosen_second"]
    assert ([item.trace.sample for item in first.traces], [item.sample for item in first.unscored]) == ([1], [0])
    assert ([item.trace.sample for item in second.traces], [item.sample for item in second.failures]) == ([0], [1])
    [alone] = assembly.add(scored("q/chosen_first", 1))
    assert [item.trace.sample for item in alone.traces] == [0, 1]


def test_a_sample_that_comes_twice_is_an_error() -> None:
    assembly = Assembly(PROMPTS[2:], 2)
    assembly.add(scored("q/chosen_first", 0))
    with pytest.raises(RuntimeError, match=r"q/chosen_first: expected samples 0\.\.1 once each, got \[0, 0\]"):
        assembly.add(scored("q/chosen_first", 0))


def refill(useful_of_round: list[int], wanted: int, rounds: int) -> tuple[RolloutBatch, list[tuple[int, int]]]:
    """Rounds that generate what is asked for, of which so many are useful."""
    asked = []

    async def round_of(number: int, missing: int) -> RolloutBatch:
        asked.append((number, missing))
        groups = tuple(
            ScoredGroup(PROMPTS[0], (scored("p/chosen_first", index, float(index < useful_of_round[number])),))
            for index in range(missing)
        )
        return RolloutBatch(groups, 2.0, 0.5)

    batch = asyncio.run(refilled(round_of, lambda group: group.traces[0].reward == 1.0, wanted, rounds))
    return batch, asked


def test_refills_ask_for_what_is_missing_until_nothing_is() -> None:
    batch, asked = refill([5, 1, 2], wanted=8, rounds=9)
    assert asked == [(0, 8), (1, 3), (2, 2)]
    assert (len(batch.groups), batch.refills, batch.wanted) == (13, 2, 8)
    assert (batch.generate_seconds, batch.verify_seconds) == (6.0, 1.5)
    whole, asked = refill([8], wanted=8, rounds=9)
    assert (asked, whole.refills, whole.wanted) == ([(0, 8)], 0, 8)


def test_refills_end_after_the_rounds_they_may_take() -> None:
    batch, asked = refill([0, 0, 1], wanted=4, rounds=2)
    assert asked == [(0, 4), (1, 4), (2, 4)]
    assert sum(group.traces[0].reward for group in batch.groups) == 1


def test_collections_at_the_same_time_are_one_batch_in_their_order() -> None:
    async def run() -> RolloutBatch:
        begun = asyncio.Event()

        async def collection(sample: int, wait: bool, seconds: float) -> RolloutBatch:
            # The first ends only after the second has begun.
            await (begun.wait() if wait else asyncio.sleep(0))
            begun.set()
            group = ScoredGroup(PROMPTS[0], (scored("p/chosen_first", sample),))
            return RolloutBatch((group,), seconds, seconds / 2)

        return await together([collection(0, True, 2.0), collection(1, False, 4.0)])

    batch = asyncio.run(run())
    assert [group.traces[0].trace.sample for group in batch.groups] == [0, 1]
    assert (batch.generate_seconds, batch.verify_seconds) == (4.0, 2.0)


def test_an_error_of_one_collection_ends_the_others() -> None:
    async def run() -> list[str]:
        ended: list[str] = []

        async def fails() -> RolloutBatch:
            raise RuntimeError("the engine died")

        async def endless() -> RolloutBatch:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            raise AssertionError

        with pytest.raises(RuntimeError, match="the engine died"):
            await together([endless(), fails()])
        await asyncio.sleep(0)
        return ended

    assert asyncio.run(run()) == ["cancelled"]
