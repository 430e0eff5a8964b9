"""What stands still is found out, what is only slow is not; the clock is the test's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.liveness import Beat, Liveness, Patience

PATIENCE = Patience(floor=30.0, factor=10.0, unmeasured=600.0)


def at_work(every: float, beats: int) -> tuple[Liveness, float]:
    """Something that moved every so many seconds, and the moment of its last step."""
    liveness = Liveness(PATIENCE, 0.0)
    for number in range(beats):
        liveness.beat(Beat(number, "generate"), number * every)
    return liveness, (beats - 1) * every


def test_what_stops_is_suspect_at_half_its_deadline_and_dead_at_it() -> None:
    liveness, last = at_work(every=1.0, beats=5)
    assert liveness.deadline() == 30.0
    stopped = Beat(4, "generate")
    for second in range(31):
        liveness.beat(stopped, last + second)
    assert [liveness.state(last + after) for after in (14.9, 15.0, 29.9, 30.0)] == [
        *("healthy", "suspect", "suspect", "dead")
    ]


def test_the_deadline_is_measured() -> None:
    """Steps of 20 s: half a minute would be no deadline."""
    liveness, last = at_work(every=20.0, beats=4)
    assert liveness.deadline() == 200.0
    assert liveness.state(last + 199.0) == "suspect"
    assert liveness.state(last + 200.0) == "dead"


def test_what_was_never_measured_may_take_as_long_as_anything() -> None:
    liveness = Liveness(PATIENCE, 0.0)
    liveness.beat(Beat(0, "generate"), 0.0)
    assert liveness.state(599.0) == "suspect"
    liveness.beat(Beat(1, "generate"), 599.0)
    liveness.beat(Beat(1, "update"), 600.0)
    assert liveness.deadline() == 600.0, "of another kind of work nothing is known"


def test_what_measures_itself_has_its_deadline_from_the_first_beat() -> None:
    liveness = Liveness(PATIENCE, 0.0)
    liveness.beat(Beat(1, "generate", 0.5), 0.0)
    assert liveness.deadline() == 30.0
    liveness.beat(Beat(1, "generate", 4.0), 1.0)
    assert liveness.deadline() == 40.0
    assert liveness.state(40.0) == "dead", "what it measured is no progress"


def test_with_nothing_to_do_it_only_has_to_answer() -> None:
    liveness = Liveness(PATIENCE, 0.0)
    for second in range(0, 1000, 10):
        liveness.beat(Beat(7, ""), float(second))
        assert liveness.state(second + 9.0) == "healthy"
    assert liveness.state(990.0 + 30.0) == "dead", "a stopped process does not answer"


def test_dead_stays_dead_until_another_is_back() -> None:
    liveness, last = at_work(every=1.0, beats=3)
    liveness.died()
    liveness.beat(Beat(99, "generate"), last + 1)
    assert liveness.state(last + 1) == "dead"
    liveness.restarting()
    assert liveness.state(last + 1000) == "restarting"
    liveness.back(last + 1000)
    assert liveness.state(last + 1001) == "healthy"


def test_silence_while_nobody_listened_says_nothing() -> None:
    liveness, last = at_work(every=1.0, beats=3)
    liveness.excuse(3600.0)
    assert liveness.state(last + 3600.0) == "healthy"


@pytest.mark.slow
@given(st.lists(st.floats(0.01, 29.0), min_size=1, max_size=60), st.sampled_from(["generate", "update"]))
def test_what_moves_within_the_floor_is_never_dead(gaps: list[float], at: str) -> None:
    liveness, now = Liveness(PATIENCE, 0.0), 0.0
    for number, gap in enumerate(gaps):
        now += gap
        assert liveness.state(now) != "dead"
        liveness.beat(Beat(number, at), now)
        assert liveness.state(now) == "healthy"


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.floats(0.0, 100.0), st.integers(0, 3), st.sampled_from(["", "generate"])), max_size=40),
    st.floats(0.0, 1e4),
)
def test_whatever_was_said_silence_ends_in_death_at_the_deadline_and_not_before(
    beats: list[tuple[float, int, str]], silence: float
) -> None:
    liveness, now = Liveness(PATIENCE, 0.0), 0.0
    for gap, progress, at in beats:
        now += gap
        liveness.beat(Beat(progress, at), now)
    deadline = liveness.deadline()
    assert deadline >= PATIENCE.floor
    assert (liveness.state(liveness.since + silence) == "dead") == (
        liveness.since + silence - liveness.since >= deadline
    )


def test_what_was_up_when_it_began_to_be_listened_to_only_has_to_answer() -> None:
    starting, up = Liveness(PATIENCE, 0.0), Liveness(replace(PATIENCE, is_up=True), 0.0)
    assert (starting.state(31.0), up.state(31.0)) == ("healthy", "dead")
    assert starting.state(600.0) == "dead"
    up = Liveness(replace(PATIENCE, is_up=True), 0.0)
    up.beat(Beat(0, "load"), 20.0)
    assert up.state(60.0) == "healthy", "it has said what it is at, of which nothing is measured"
