"""Actors are listened to while they compute, and one that is stuck is killed, so that whoever waits for it is told."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from commands import wait_until
from rollout_actors import BusyRank

from actors.deadlines import ActorFailed, NamedActor, get
from actors.learner.actor import BESIDE
from actors.liveness import Beat, Patience
from actors.monitor import Monitor

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def rank() -> NamedActor:
    handle: Any = ray.remote(concurrency_groups={BESIDE: 1})(BusyRank).options(num_cpus=0)
    return NamedActor(handle.remote(), "learner rank 0", None, "learner")


def test_a_rank_says_what_it_is_at_while_it_computes() -> None:
    busy = rank()
    busy.handle.hang.remote()

    def said() -> Beat:
        return ray.get(busy.handle.beat.options(concurrency_group=BESIDE).remote(), timeout=60)

    wait_until(lambda: said().at == "hang", 60, "the work to begin")
    assert said() == Beat(0, "hang", is_measured=False)
    ray.kill(busy.handle)


def test_one_that_does_not_move_is_killed_at_its_deadline_and_its_caller_knows_what_failed() -> None:
    busy, told, monitor = rank(), [], Monitor(every=0.2)
    monitor.watch(busy, Patience(2.0, 10.0, 2.0), lambda actor, error: told.append((actor, str(error))), BESIDE)
    try:
        with pytest.raises(ActorFailed, match=r"^a step: learner rank 0 died: ") as caught:
            get([busy.handle.hang.remote()], 120.0, "a step", [busy])
        assert (caught.value.kind, caught.value.actor) == ("learner", busy)
        assert told == [(busy, "learner rank 0 was stuck: it did not move for 2 s, and was killed")]
    finally:
        monitor.close()
