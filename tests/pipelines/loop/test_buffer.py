"""The buffer between engines and learners, by random schedules: nothing is lost, repeated, starved or too old."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipelines.loop.buffer import BufferSizes, GroupBuffer

TRACES = 2


class Schedule(RuleBasedStateMachine):
    """Engines that write items in any order and time, learners of any speed, and a process that may die at any moment.

    The model keeps what the buffer must never forget: which positions were trained on, and by which weights they began.
    """

    @initialize(
        per_step=st.integers(1, 4),
        steps=st.integers(1, 7),
        last=st.integers(1, 4),
        staleness=st.integers(0, 4),
        slots=st.integers(1, 40),
    )
    def start(self, per_step: int, steps: int, last: int, staleness: int, slots: int) -> None:
        items = (steps - 1) * per_step + min(last, per_step)
        self.sizes = BufferSizes(per_step, items, TRACES, staleness, slots)
        self.steps = steps
        self.trained: list[list[int]] = []
        self.saved: dict[str, Any] = {"begun": 0, "outstanding": []}
        self.saved_after = 0
        self.open(None)

    def open(self, state: dict[str, Any] | None) -> None:
        self.buffer: GroupBuffer[str] = GroupBuffer(self.sizes, len(self.trained), state)
        assert self.buffer.begin() == [], "nothing begins before the engines have weights"
        self.began: dict[int, int] = {}
        self.left: dict[int, int] = {}
        self.complete: set[int] = set()
        self.taken = [position for step in self.trained for position in step]
        self.order: list[int] = []
        self.publish()

    @property
    def version(self) -> int:
        return len(self.trained)

    def publish(self) -> None:
        self.buffer.published(self.version)
        self.begin()

    def begin(self) -> None:
        under_way = sum(self.left.values())
        positions = self.buffer.begin()
        for index, position in enumerate(positions):
            assert under_way + index * TRACES < self.sizes.slots, "it waits for a slot"
            assert position not in self.began
            assert position not in self.taken, "trained on, and begun again"
            self.began[position], self.left[position] = self.version, TRACES
        self.order += positions

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def a_trace_ends(self, data: st.DataObject) -> None:
        position = data.draw(st.sampled_from(sorted(self.left)))
        self.left[position] -= 1
        self.buffer.ended(1)
        if not self.left[position]:
            del self.left[position]
            self.buffer.complete(position, f"content of {position}")
            self.complete.add(position)
        self.begin()

    @rule()
    def the_next_step_takes_one(self) -> None:
        found = self.buffer.take()
        if found is None:
            assert self.blocked_by_one_that_is_due()
            return
        position, content = found
        assert content == f"content of {position}"
        self.complete.remove(position)
        self.taken.append(position)
        # Trained on by weights of the version that is the step's number.
        assert (len(self.taken) - 1) // self.sizes.per_step - self.began[position] <= self.sizes.max_staleness

    def blocked_by_one_that_is_due(self) -> bool:
        """Nothing is complete, or one that is not has the last place that those begun before it leave."""
        held = [position for position in self.order if position not in self.taken]
        for index, position in enumerate(held):
            if position in self.complete:
                return False
            places = (self.began[position] + self.sizes.max_staleness + 1) * self.sizes.per_step
            if len(self.taken) + index + 1 >= places:
                return True
        return True

    @property
    def can_train(self) -> bool:
        return self.version < self.steps and len(self.taken) >= min(
            (self.version + 1) * self.sizes.per_step, self.sizes.items
        )

    @precondition(lambda self: self.can_train)
    @rule()
    def the_learners_train_on_a_step(self) -> None:
        start = self.version * self.sizes.per_step
        self.trained.append(self.taken[start : start + self.sizes.of_step(self.version)])
        self.publish()
        for position in self.trained[-1]:
            assert self.version - 1 - self.began[position] <= self.sizes.max_staleness

    @rule()
    def a_checkpoint_is_written(self) -> None:
        self.saved, self.saved_after = self.buffer.state(), self.version
        seen = Counter(self.saved["outstanding"]) + Counter(chain.from_iterable(self.trained))
        assert seen == Counter(range(self.saved["begun"])), "of all that began, each is trained on or outstanding"

    @rule()
    def the_process_dies(self) -> None:
        self.trained = self.trained[: self.saved_after]
        self.open(self.saved)
        assert (
            self.order == [*self.saved["outstanding"], *range(self.saved["begun"], self.sizes.items)][: len(self.order)]
        ), "what was outstanding begins first"

    @invariant()
    def nobody_waits_for_what_could_be_given(self) -> None:
        """A slot is empty only for the bound on staleness, or because all have begun."""
        if sum(self.left.values()) < self.sizes.slots:
            bound = (self.version + self.sizes.max_staleness + 1) * self.sizes.per_step
            assert len(self.taken) + len(self.left) + len(self.complete) == min(bound, self.sizes.items)

    @invariant()
    def gauges_count(self) -> None:
        gauges = self.buffer.gauges(self.version)
        assert gauges["slots_in_use"] == sum(self.left.values())
        current = min((self.version + 1) * self.sizes.per_step, self.sizes.items)
        assert gauges["items_waiting"] == len(self.complete) + max(0, len(self.taken) - current)
        assert gauges["oldest_item"] == max((self.version - self.began[item] for item in self.left), default=0)

    def teardown(self) -> None:
        """From wherever it stands the run comes to its end, each position once."""
        if not hasattr(self, "buffer"):
            return
        for _ in range(10 * self.sizes.items + 10):
            while (found := self.buffer.take()) is not None:
                self.taken.append(found[0])
                self.complete.remove(found[0])
            while self.can_train:
                self.the_learners_train_on_a_step()
            if not self.left:
                break
            # The youngest first: those that are due come last.
            position = max(self.left)
            self.buffer.ended(self.left.pop(position))
            self.buffer.complete(position, "")
            self.complete.add(position)
            self.begin()
        assert Counter(chain.from_iterable(self.trained)) == Counter(range(self.sizes.items))
        assert [len(step) for step in self.trained] == [self.sizes.of_step(step) for step in range(self.steps)]
        if self.sizes.max_staleness == 0:
            per_step = self.sizes.per_step
            for number, step in enumerate(self.trained):
                assert sorted(step) == list(range(self.sizes.items))[number * per_step : (number + 1) * per_step]


TestSchedules = Schedule.TestCase
TestSchedules.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def buffer(staleness: int, slots: int, per_step: int = 2, items: int = 100) -> GroupBuffer[int]:
    made: GroupBuffer[int] = GroupBuffer(BufferSizes(per_step, items, 1, staleness, slots))
    made.published(0)
    return made


def test_on_policy_has_one_step_and_it_begins_with_the_weights_it_is_trained_on() -> None:
    buffered = buffer(0, 99)
    assert buffered.begin() == [0, 1]
    for position in (1, 0):
        buffered.ended(1)
        buffered.complete(position, position)
        assert buffered.take() == (position, position)
    buffered.published(0)
    assert buffered.begin() == [], "the same version begins no other"
    buffered.published(1)
    assert buffered.begin() == [2, 3]


def test_others_pass_a_long_one_until_its_last_step_which_waits_for_it() -> None:
    buffered, began, taken = buffer(2, slots=3), [], []
    for step in range(3):
        buffered.published(step)
        for _ in range(2):
            began += buffered.begin()
            young = next(position for position in began if position not in (0, *taken))
            buffered.ended(1)
            buffered.complete(young, young)
            found = buffered.take()
            if found is None:
                assert (step, len(taken)) == (2, 5), (
                    "0 began by version 0: it is waited for in step 2, as its last item"
                )
                buffered.ended(1)
                buffered.complete(0, 0)
                found = buffered.take()
            assert found is not None
            taken.append(found[0])
    assert taken == [1, 2, 3, 4, 5, 0]


def test_slots_hold_items_back_so_that_they_begin_by_younger_weights() -> None:
    buffered = buffer(4, slots=3)
    assert buffered.begin() == [0, 1, 2]
    assert buffered.begin() == []
    buffered.ended(2)
    assert buffered.begin() == [3, 4]
    assert buffered.gauges(0) == {"slots": 3, "slots_in_use": 3, "items_waiting": 0, "oldest_item": 0}


def test_a_state_of_another_step_and_an_item_that_is_not_under_way_are_errors() -> None:
    sizes = BufferSizes(2, 100, 1, 1, 9)
    with pytest.raises(ValueError, match="after 3 steps 6 items are trained on, but 9 began and 2 of them"):
        GroupBuffer(sizes, 3, {"begun": 9, "outstanding": [4, 8]})
    with pytest.raises(KeyError, match="item 7 is not under way"):
        buffer(0, 9).complete(7, 0)


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 200))
def test_steps_share_out_the_items(step: int, per_step: int, items: int) -> None:
    sizes = BufferSizes(per_step, items, 1, 0, 1)
    start = min(step * per_step, items)
    assert sizes.of_step(step) == len(range(items)[start : start + per_step])
