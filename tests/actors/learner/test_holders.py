"""Copies that are kept on another node outlive their own, whole or not at all, and cost nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from deaths import kill_actor
from placed_holders import Full, OnNode, Places

from actors.learner.copies import Memory
from actors.learner.holder import NOTHING
from actors.learner.holders import Holders

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

RECORD = b"counts and such"


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places("first", "first", "second")
    yield made
    for actor in made.started:
        ray.kill(actor.handle)


def ask(holders: Holders, rank: int, method: str, *arguments: Any) -> Any:
    holder = holders.actors[rank]
    assert holder is not None
    return ray.get(getattr(holder.handle, method).remote(*arguments), timeout=60)


def state(rank: int, step: int) -> list[torch.Tensor]:
    """More than is sent at a time."""
    return [torch.full((3_000_000,), rank + step / 100, dtype=torch.float64), torch.arange(7) * step]


def copy(holders: Holders, rank: int, step: int) -> str:
    """As a rank does after a step; returns why the copy is not elsewhere."""
    tensors = state(rank, step)
    memory = Memory(ask(holders, rank, "reserve", Memory.needed(tensors, len(RECORD))))
    memory.write(step, tensors, RECORD)
    memory.close()
    return ask(holders, rank, "send", step)


def read(holders: Holders, rank: int, step: int) -> list[torch.Tensor]:
    """As another rank in its place does."""
    path, steps = ask(holders, rank, "held")
    assert step in steps
    memory, tensors = Memory(path), [torch.zeros_like(tensor) for tensor in state(rank, step)]
    assert memory.record(step) == RECORD
    memory.read(step, tensors)
    memory.close()
    return tensors


def lose(holders: Holders, *ranks: int) -> None:
    for rank in ranks:
        holder = holders.actors[rank]
        assert holder is not None
        kill_actor(holder.handle)


def test_what_was_on_a_lost_node_comes_from_another(places: Places) -> None:
    holders = Holders(3, places.start, elsewhere=True)
    handles = holders.ready()
    assert holders.ready() == handles, "those that live stay"
    for step in (4, 5):
        assert [copy(holders, rank, step) for rank in range(3)] == [""] * 3
    lose(holders, 2)
    assert holders.steps() == [{4, 5}] * 3
    places.nodes[2] = "third"
    again = holders.ready()
    assert (again[:2], again[2] == handles[2]) == (handles[:2], False)
    for step in (4, 5):
        for found, expected in zip(read(holders, 2, step), state(2, step), strict=True):
            assert torch.equal(found, expected)
    # The new one sends and receives, too.
    assert [copy(holders, rank, 6) for rank in range(3)] == [""] * 3
    lose(holders, 0, 1)
    assert holders.steps() == [{6}, {6}, {5, 6}]


def test_those_of_one_node_are_spread_over_those_of_the_next(places: Places) -> None:
    places.nodes, places.kinds = ["a", "a", "b", "b", "c"], [OnNode] * 5
    holders = Holders(5, places.start, elsewhere=True)
    holders.ready()
    assert holders._peers == [2, 3, 4, 4, 0]
    # Where a rank of c goes on a, those of b need others.
    lose(holders, 4)
    places.nodes[4] = "a"
    holders.ready()
    assert holders._peers == [2, 3, 0, 1, 2]


def test_where_the_peer_is_lost_as_well_nothing_is_there(places: Places) -> None:
    holders = Holders(3, places.start, elsewhere=True)
    holders.ready()
    for rank in range(3):
        copy(holders, rank, 1)
    # Of these the second keeps the copies of the first, and of one more.
    lose(holders, 0, 2)
    assert holders.steps() == [None, {1}, None]
    holders.ready()
    assert holders.steps() == [set(), {1}, set()]


def test_one_node_keeps_its_own_and_sends_nothing(places: Places) -> None:
    places.nodes = ["one"] * 3
    holders = Holders(3, places.start, elsewhere=True)
    holders.ready()
    assert copy(holders, 0, 3) == ""
    assert [ask(holders, rank, "guests", 0) for rank in (1, 2)] == [(0, [])] * 2
    lose(holders, 0)
    assert holders.steps() == [None, set(), set()]


def test_a_peer_without_room_or_life_costs_no_copy_beside_the_rank(places: Places) -> None:
    places.kinds[2] = Full
    holders = Holders(3, places.start, elsewhere=True)
    holders.ready()
    assert "no room for copies" in copy(holders, 0, 3)
    lose(holders, 2)
    assert "died" in copy(holders, 0, 4)
    assert holders.steps()[0] == {3, 4}


def test_what_is_overwritten_or_made_again_is_not_taken_for_whole(places: Places) -> None:
    holders = Holders(3, places.start, elsewhere=True)
    holders.ready()
    for step in (1, 2):
        assert copy(holders, 0, step) == ""
    assert "overwritten before" in ask(holders, 0, "send", 3)
    ask(holders, 0, "forget", 2)
    assert [head.step for head in ask(holders, 2, "guests", 0)[1]] == [NOTHING, 1]
    # What is dropped is dropped of guests as well.
    holders.drop()
    assert ask(holders, 2, "guests", 0) == (0, [])
    assert holders.steps() == [set()] * 3
