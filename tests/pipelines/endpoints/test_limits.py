"""Rates over any minute, pauses for all, and a budget that is never exceeded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.endpoints.limits import Budget, RateLimit


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_requests_are_spaced_evenly() -> None:
    clock = Clock()
    limit = RateLimit(120, 0, clock)
    assert [limit.reserve(10) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    clock.now += 100
    assert [limit.reserve(10) for _ in range(2)] == [0.0, 0.5]


def test_tokens_are_put_right_when_the_answer_is_there() -> None:
    clock = Clock()
    limit = RateLimit(0, 6000, clock)
    assert limit.reserve(1000) == 0.0
    assert limit.reserve(1000) == 10.0
    limit.settle(1000, 100)
    assert limit.reserve(1000) == 11.0


def test_no_limit_never_waits() -> None:
    limit = RateLimit(0, 0, Clock())
    assert [limit.reserve(10**9) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_a_pause_holds_for_all_and_those_after_it_are_spaced() -> None:
    clock = Clock()
    limit = RateLimit(60, 0, clock)
    assert limit.reserve(1) == 0.0
    limit.pause(20)
    limit.pause(5)
    assert limit.paused
    assert [limit.reserve(1) for _ in range(3)] == [20.0, 21.0, 22.0]
    clock.now += 20
    assert not limit.paused


@settings(max_examples=40)
@given(
    st.integers(1, 600),
    st.integers(100, 100_000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 500)), min_size=1, max_size=40),
)
def test_no_minute_holds_more_than_the_limit(requests: int, tokens: int, arrivals: list[tuple[float, int]]) -> None:
    clock = Clock()
    limit = RateLimit(requests, tokens, clock)
    sent = []
    for pause, size in arrivals:
        clock.now += pause
        sent.append((clock.now + limit.reserve(size), size))
    for start, _ in sent:
        window = [size for moment, size in sent if start <= moment < start + 60 - 1e-6]
        assert len(window) <= requests
        # The last one of a window may begin there and end beyond it.
        assert sum(window[:-1]) <= tokens


def test_a_budget_admits_what_fits_beside_what_is_in_flight() -> None:
    budget = Budget(1000, 0.0, spent_tokens=200)
    assert budget.admits(800, 0)
    assert not budget.admits(801, 0)
    budget.hold(500, 0)
    assert budget.busy
    assert not budget.admits(301, 0)
    budget.release(500, 0)
    budget.spend(100, 0)
    assert not budget.busy
    assert budget.admits(700, 0)
    assert not budget.admits(701, 0)
    assert budget.describe() == "300 of 1,000 tokens"


def test_a_budget_of_n_requests_admits_n() -> None:
    budget = Budget(0, 0.3)
    for _ in range(3):
        assert budget.admits(5, 0.1)
        budget.hold(5, 0.1)
        budget.release(5, 0.1)
        budget.spend(5, 0.1)
    assert not budget.admits(5, 0.1)
    assert budget.describe() == "0.30 of 0.30"


def test_without_a_limit_everything_is_admitted() -> None:
    assert Budget(0, 0.0).admits(10**12, 10.0**12)
