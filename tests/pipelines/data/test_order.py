"""The data stream: every epoch holds every item once, however it is cut and wherever a run was interrupted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.order import batch_of, refill_of, rounds_of, slice_of_stream, steps_for


@given(st.integers(1, 40), st.integers(0, 5), st.lists(st.integers(0, 17), max_size=12))
def test_stream_is_the_same_however_it_is_cut(count: int, seed: int, cuts: list[int]) -> None:
    stop = sum(cuts)
    pieces, start = [], 0
    for cut in cuts:
        pieces += slice_of_stream(count, seed, start, start + cut)
        start += cut
    assert pieces == slice_of_stream(count, seed, 0, stop)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 50), st.integers(0, 3))
def test_batches_of_all_steps_visit_every_item_once_an_epoch(count: int, epochs: int, batch: int, seed: int) -> None:
    visited: Counter[int] = Counter()
    for step in range(steps_for(count, epochs, batch)):
        items = batch_of(count, seed, batch, step, epochs)
        assert 0 < len(items) <= batch
        visited.update(items)
    assert visited == Counter(dict.fromkeys(range(count), epochs))


def test_rounds_hold_an_item_once_each() -> None:
    assert rounds_of([3, 1, 3, 2, 1, 3]) == [[0, 1, 3], [2, 4], [5]]
    assert rounds_of([4, 5]) == [[0, 1]]
    assert rounds_of([]) == []


def test_epochs_are_shuffled_differently_and_by_seed() -> None:
    first, second = slice_of_stream(50, 0, 0, 50), slice_of_stream(50, 0, 50, 100)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != slice_of_stream(50, 1, 0, 50)


def test_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to visit"):
        slice_of_stream(0, 0, 0, 1)


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 40), st.integers(0, 9), st.integers(1, 4))
def test_refills_are_other_items_and_the_same_every_time(
    count: int, seed: int, wanted: int, step: int, number: int
) -> None:
    batch = batch_of(count, seed, 3, step, 10)
    drawn = refill_of(count, seed, wanted, step, number, batch)
    assert drawn == refill_of(count, seed, wanted, step, number, batch)
    assert len(set(drawn)) == len(drawn) == min(wanted, count - len(set(batch)))
    assert not set(drawn) & set(batch)


def test_rounds_and_steps_draw_differently() -> None:
    draws = [refill_of(1000, 0, 5, step, number, []) for step in (0, 1) for number in (1, 2)]
    assert len({tuple(draw) for draw in draws}) == 4
