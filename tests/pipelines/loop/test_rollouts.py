"""How items come together: complete once, with their times; refills go on until enough groups teach something."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from actors.messages import GenerationFailure, Prompt, RewardFailure, ScoredGroup, ScoredTrace, Trace, Verdict
from pipelines.loop.rollouts import Assembly, RewardsFailed, RolloutBatch, ScoredItem, refilled

PAIR = (
    Prompt("p/chosen_first", "p", "chosen_first", "A", "chat", (1,)),
    Prompt("p/chosen_second", "p", "chosen_second", "B", "chat", (1,)),
)
ALONE = (Prompt("q/chosen_first", "q", "chosen_first", "A", "chat", (1,)),)


def scored(uid: str, sample: int, reward: float = 1.0) -> ScoredTrace:
    versions = np.zeros(1, np.int32)
    trace = Trace(uid, sample, np.ones(1, np.int32), np.zeros(1, np.float32), "", "stop", versions)
    return ScoredTrace(trace, Verdict("A", None), reward)


def test_an_item_is_complete_when_every_sample_of_both_orders_has_ended_once() -> None:
    assembly = Assembly([PAIR, ALONE], 2)
    assert assembly.missing == "p/chosen_first"
    assert assembly.add(scored("p/chosen_first", 1)) == []
    assert assembly.add(GenerationFailure("p/chosen_second", 1, "engine_error", "")) == []
    assert assembly.add(scored("q/chosen_first", 0)) == []
    assert assembly.add(RewardFailure("p/chosen_first", 0, "mine", "timeout", "")) == []
    first, second = assembly.add(scored("p/chosen_second", 0))
    assert [group.prompt.uid for group in (first, second)] == ["p/chosen_first", "p/chosen_second"]
    assert ([item.trace.sample for item in first.traces], [item.sample for item in first.unscored]) == ([1], [0])
    assert ([item.trace.sample for item in second.traces], [item.sample for item in second.failures]) == ([0], [1])
    assert assembly.missing == "q/chosen_first"
    [alone] = assembly.add(scored("q/chosen_first", 1))
    assert assembly.missing is None
    assert [item.trace.sample for item in alone.traces] == [0, 1]


def test_a_sample_that_comes_twice_is_an_error() -> None:
    assembly = Assembly([ALONE], 2)
    assembly.add(scored("q/chosen_first", 0))
    with pytest.raises(RuntimeError, match=r"q/chosen_first: expected samples 0\.\.1 once each, got \[0, 0\]"):
        assembly.add(scored("q/chosen_first", 0))


def groups_of(count: int, useful: int) -> tuple[ScoredGroup, ...]:
    """Groups of one trace, so many of them useful."""
    return tuple(
        ScoredGroup(PAIR[0], (scored("p/chosen_first", index, float(index < useful)),)) for index in range(count)
    )


def refill(useful_of_round: list[int], wanted: int, rounds: int) -> tuple[RolloutBatch, list[tuple[int, int]]]:
    """Rounds that generate what is asked for, of which so many are useful; the first is the batch itself."""
    asked = []

    async def round_of(number: int, missing: int) -> RolloutBatch:
        asked.append((number, missing))
        return RolloutBatch(groups_of(missing, useful_of_round[number]), 2.0, 0.5)

    own = RolloutBatch(groups_of(wanted, useful_of_round[0]), 2.0, 0.5)
    batch = asyncio.run(refilled(own, round_of, lambda group: group.traces[0].reward == 1.0, wanted, rounds))
    return batch, asked


def test_refills_ask_for_what_is_missing_until_nothing_is() -> None:
    batch, asked = refill([5, 1, 2], wanted=8, rounds=9)
    assert asked == [(1, 3), (2, 2)]
    assert (len(batch.groups), batch.refills, batch.wanted) == (13, 2, 8)
    assert (batch.generate_seconds, batch.verify_seconds) == (6.0, 1.5)
    whole, asked = refill([8], wanted=8, rounds=9)
    assert (asked, whole.refills, whole.wanted) == ([], 0, 8)


def test_refills_end_after_the_rounds_they_may_take() -> None:
    batch, asked = refill([0, 0, 1], wanted=4, rounds=2)
    assert asked == [(1, 4), (2, 4)]
    assert sum(group.traces[0].reward for group in batch.groups) == 1


def test_a_batch_has_the_groups_of_its_items_in_order_and_the_time_from_first_to_last() -> None:
    first, second, third = groups_of(3, 3)
    items = [ScoredItem((third,), 12.0, 20.0, 21.0), ScoredItem((first, second), 10.0, 18.0, 21.5)]
    assert RolloutBatch.of(items) == RolloutBatch((third, first, second), 10.0, 1.5)
    assert RolloutBatch.of([]) == RolloutBatch((), 0.0, 0.0)


def test_a_batch_without_any_reward_is_refused_and_one_with_some_is_not() -> None:
    failed = ScoredItem(
        (ScoredGroup(ALONE[0], (), (), (RewardFailure("q/chosen_first", 0, "mine", "timeout", "no answer"),)),),
        *(0.0, 1.0, 2.0),
    )
    with pytest.raises(RewardsFailed, match=r"none of 2 traces could be scored; first: prompt q/chosen_first: .*mine"):
        RolloutBatch.of([failed, failed])
    assert len(RolloutBatch.of([failed, ScoredItem(groups_of(1, 1), 0.0, 1.0, 2.0)]).groups) == 2
