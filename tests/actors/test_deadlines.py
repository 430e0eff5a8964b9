"""Waits: results in order, and errors that say for what and on whom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.deadlines import ActorFailed, DeadlineExceeded, get

pytestmark = pytest.mark.ray


class Worker:
    """An actor that answers, raises, dies or waits as it is told."""

    def answer(self, value: int) -> int:
        return value

    def refuse(self) -> None:
        raise KeyError("no such shelf")

    def die(self) -> None:
        os._exit(1)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def workers(ray: Any) -> Iterator[list[Any]]:
    """Two actors that have started: deadlines below are for their answers, not for the start of processes."""
    handles = [ray.remote(Worker).options(num_cpus=0).remote() for _ in range(2)]
    ray.get([handle.answer.remote(0) for handle in handles], timeout=120)
    yield handles
    for handle in handles:
        ray.kill(handle)


def test_answers_come_in_the_order_of_the_references(workers: list[Any]) -> None:
    references = [workers[index % 2].answer.remote(index) for index in range(5)]
    assert get(references, 60, "answers") == [0, 1, 2, 3, 4]
    assert get([], 1, "nothing") == []


def test_error_names_the_wait_the_actor_and_the_cause(workers: list[Any]) -> None:
    references = [workers[0].wait.remote(60), workers[1].refuse.remote()]
    with pytest.raises(ActorFailed, match=r"a book: second failed: KeyError\('no such shelf'\)"):
        get(references, 50, "a book", ["first", "second"])


def test_death_goes_before_the_errors_it_causes(workers: list[Any]) -> None:
    references = [workers[0].refuse.remote(), workers[1].die.remote()]
    with pytest.raises(ActorFailed, match="a book: second died"):
        get(references, 60, "a book", ["first", "second"])


def test_deadline_names_what_and_who_is_late(workers: list[Any]) -> None:
    references = [workers[0].answer.remote(1), workers[1].wait.remote(60)]
    with pytest.raises(DeadlineExceeded, match=r"waited 2 s for a book; no answer from second$"):
        get(references, 2, "a book", ["first", "second"])
