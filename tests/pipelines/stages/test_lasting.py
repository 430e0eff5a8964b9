"""Learners that die are started again, unless it is again and again in one step. No actors."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.deadlines import ActorFailed, NamedActor
from actors.restarts import Faults, RestartsExhausted
from pipelines.stages.lasting import with_learners


class Job:
    """A session and a stage in one, whose training fails as it is told to, after so many steps."""

    def __init__(self, *failures: tuple[int, ActorFailed], most: int = 10, lacking: str = "") -> None:
        self.told: list[str] = []
        self.faults = Faults(most, 3600.0, self.told.append)
        self.events: list[str] = []
        self.name = "rl"
        self.run = SimpleNamespace(last_step=lambda stage: self.steps)
        self.ranks = SimpleNamespace(lacking=lacking)
        self.steps = 0
        self._failures = list(failures)

    def learners(self) -> Any:
        self.events.append("start")
        return self

    def learner_lost(self, rank: NamedActor, failed: ActorFailed) -> None:
        assert failed.actor is rank
        self.events.append("lost")

    def end_dead_learners(self) -> None:
        self.events.append("end")

    def load(self, learners: Any) -> None:
        assert learners is self
        self.events.append("load")

    def train(self, learners: Any) -> None:
        self.events.append("train")
        if self._failures:
            self.steps, failure = self._failures.pop(0)
            raise failure

    def last(self) -> None:
        load, train = cast(Callable[[Any], None], self.load), cast(Callable[[Any], None], self.train)
        with_learners(cast(Any, self), cast(Any, self), load, train)


def death(kind: str | None = "learner") -> ActorFailed:
    rank = NamedActor(None, "learner rank 1", "learner-1.log", "learner")
    failed = ActorFailed(f"a policy step: {rank} died: its process was killed")
    failed.kind, failed.actor = cast(Any, kind), rank
    return failed


def test_all_ranks_are_ended_started_loaded_and_trained_again() -> None:
    job = Job((4, death()))
    job.last()
    assert job.events == ["start", "load", "train", "lost", "end", "start", "load", "train"]
    assert job.told[0] == (
        "learner rank 1 died: its process was killed; all ranks are restarted and go on from the last checkpoint"
    )
    assert job.told[1].startswith("learner rank 1 is back after 0.")


def test_a_step_that_learners_die_of_three_times_is_named_and_ends_the_run() -> None:
    job = Job((4, death()), (4, death()), (6, death()), (4, death()))
    with pytest.raises(RestartsExhausted, match=r"^learner rank 1 died: .*That was fault 3 in step 5 of rl"):
        job.last()
    assert job.events.count("train") == 4


def test_no_more_restarts_than_are_allowed() -> None:
    job = Job((1, death()), (2, death()), most=1)
    with pytest.raises(RestartsExhausted, match=r"1 restarts within 3600 s are allowed \(cluster\.max_restarts"):
        job.last()


@pytest.mark.parametrize("kind", [None, "engine"])
def test_what_is_no_death_of_a_learner_ends_the_run_as_it_is(kind: str | None) -> None:
    failed = death(kind)
    with pytest.raises(ActorFailed) as caught:
        Job((1, failed)).last()
    assert caught.value is failed
