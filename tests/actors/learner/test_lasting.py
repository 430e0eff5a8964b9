"""Two ranks of which one is killed in the middle of a step come back, and all is bitwise as if none had been."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
from deaths import kill_actor
from judge_ranks import build_model, sequences
from placed_holders import Places
from small_settings import small_learner, small_optimizer, small_policy

from actors.deadlines import ActorFailed, NamedActor, get
from actors.learner.actor import BESIDE, Learner
from actors.learner.group import LearnerGroup
from actors.learner.holders import Holders
from actors.learner.lasting import Revival
from actors.restarts import Fault, Faults, StartTime

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

# Processes of the cluster do not find this folder: send them functions, not their names.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

OPTIMIZER = small_optimizer(name="muon", learning_rate=1e-3, total_steps=10, warmup_steps=3)
POLICY = small_policy(kl_coefficient=0.1)
MANY = 150
"""Sequences of a step that takes long enough to be met in its middle."""


def state(learner: Learner) -> dict[str, Any]:
    """Every bit that this rank trains, and its counts."""
    from actors.learner import random_state
    from actors.learner.training_state import state_tensors

    trainer = learner._trainer
    found: dict[str, Any] = {name: tensor.numpy().tobytes() for name, tensor in state_tensors(trainer)}
    return found | {"counts": (trainer.step, trainer.skipped), "random": random_state.capture()}


class NeverMeets(Learner):
    def rendezvous(self) -> tuple[str, int] | None:
        threading.Event().wait()
        return None


class Job:
    """A group of two ranks that may come back, and what is said of it."""

    def __init__(self, logs: Path, elsewhere: bool = False) -> None:
        self.told: list[str] = []
        self.faults = Faults(10, 3600.0, self.told.append)
        self.holders = Holders(2, Places("one", "another").start, elsewhere)
        self.is_ending = False
        self.coming: list[type] = []
        """What the next rank 1 is, where it is no learner as it should be."""
        self._logs = logs
        self._started: list[NamedActor] = []
        revival = Revival(self._restart, lambda: self.is_ending, self.holders, self.faults, self.told.append)
        self.group = LearnerGroup(self._start(), 64, 120.0, False, revival)
        self.group.ranks.notice = self._notice
        self.group.join(120.0, 60.0)

    def _start(self) -> list[NamedActor]:
        actors = []
        for rank in range(2):
            log = str(self._logs / f"rank-{rank}.log")
            kind = self.coming.pop() if rank == 1 and self.coming else Learner
            remote = ray.remote(num_cpus=0.5, concurrency_groups={BESIDE: 2})(kind)
            actor = remote.remote(rank, 2, small_learner(), log)
            actors.append(NamedActor(actor, f"learner rank {rank}", log, "learner"))
        self._started += actors
        return actors

    def _restart(self) -> list[NamedActor]:
        for actor in self._started:
            ray.kill(actor.handle)
        return self._start()

    def _notice(self, failed: ActorFailed, then: str) -> Fault:
        assert failed.actor is not None
        return self.faults.noticed("learner", failed.actor.name, "died", then)

    def load(self, model: str) -> None:
        self.group.load(model, model, OPTIMIZER, 120.0)

    def states(self) -> list[dict[str, Any]]:
        return get([a.handle.__ray_call__.remote(state) for a in self.group.actors], 60, "states", self.group.actors)

    def process(self, rank: int) -> int:
        handle = self.group.actors[rank].handle
        return int(ray.get(handle.processes.options(concurrency_group=BESIDE).remote(), timeout=60).members[0][0])

    def kill_in(self, method: str, rank: int, with_holder: bool = False) -> None:
        """Kill a rank when it is in the middle of a call, that comes, and who holds its copies, as with their node."""
        handle, process = self.group.actors[rank].handle, self.process(rank)

        def kill() -> None:
            begun: int | None = None
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                beat = ray.get(handle.beat.options(concurrency_group=BESIDE).remote(), timeout=60)
                if beat.at == method:
                    begun = beat.progress if begun is None else begun
                    if beat.progress > begun + 1:
                        if with_holder and (holder := self.holders.actors[rank]):
                            os.kill(process, signal.SIGSTOP)
                            kill_actor(holder.handle)
                        os.kill(process, signal.SIGKILL)
                        return

        self._killing = threading.Thread(target=kill)
        self._killing.start()

    def end(self) -> None:
        for actor in [*self._started, *self.holders.there()]:
            ray.kill(actor.handle)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path, elsewhere=True)
    yield made
    made.end()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_model(tmp_path_factory.mktemp("lasting") / "model")


@dataclass(frozen=True)
class Quiet:
    """A job to which nothing was done before the last test, and what its steps came to."""

    job: Job
    metrics: list[dict[str, float]]
    states: list[dict[str, Any]]


@pytest.fixture(scope="module")
def quiet(cluster: None, tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Quiet]:
    made = Job(tmp_path_factory.mktemp("quiet"))
    made.load(model)
    yield Quiet(made, train(made.group, lambda method: None), made.states())
    made.end()


def train(group: LearnerGroup, begun: Callable[[str], None]) -> list[dict[str, float]]:
    """Six steps as stages take them: in portions, at once, one ahead; ``begun`` is told of what has just begun."""
    metrics = []
    for seed in range(3):
        items = sequences(MANY, seed)
        group.add_policy_gradients(items[:40], POLICY)
        begun(f"policy {seed}")
        metrics.append(group.policy_step(items[40:], POLICY))
    current = group.start_supervised_step(sequences(MANY, 3))
    for seed in (4, 5):
        ahead = group.start_supervised_step(sequences(MANY, seed))
        begun(f"supervised {seed}")
        metrics.append(current())
        current = ahead
    metrics.append(current())
    return metrics


def test_ranks_killed_in_the_middle_of_steps_come_back_from_their_copies(job: Job, model: str, quiet: Quiet) -> None:
    """One with gradients of a part of its batch; all at once, between steps; one with the next step given to it, and
    with the node of its copies, of which another node has others."""

    def begun(what: str) -> None:
        if what == "policy 1":
            job.kill_in("policy_step", 1)
        elif what == "supervised 4":
            job.kill_in("supervised_step", 0, with_holder=True)
        elif what == "policy 2":
            for rank in range(2):
                os.kill(job.process(rank), signal.SIGKILL)

    job.load(model)
    metrics = train(job.group, begun)
    states = job.states()
    assert metrics == quiet.metrics, "to the last bit"
    assert states == quiet.states, "to the last bit"
    assert [row["counts"] for row in states] == [(6, 0), (6, 0)]
    assert len(job.faults.seen) == 3
    began = [line for line in job.told if "restarted" in line]
    assert began[0] == "learner rank 1 died; all ranks are restarted and go on from their copies of optimiser step 1"
    assert began[1].endswith("go on from their copies of optimiser step 2")
    assert began[2].startswith("learner rank 0 died; all ranks are restarted and go on from their copies of optimiser ")
    ended = [line for line in job.told if "is back" in line]
    assert len(ended) == 3
    assert ended[0].startswith("learner rank 1 is back after ")
    assert ended[0].endswith(" s, from their copies of optimiser step 1")


def test_before_there_are_copies_they_come_back_to_where_training_began(
    job: Job, model: str, quiet: Quiet, tmp_path: Path
) -> None:
    def begun(what: str) -> None:
        if what == "policy 0":
            job.kill_in("policy_step", 0)

    job.load(model)
    assert train(job.group, begun) == quiet.metrics
    assert job.states() == quiet.states
    assert job.told[0].endswith("go on from the model that training began with")

    directory = str(tmp_path / "step-000006")
    job.group.save(directory, {"step": 6})
    expected = job.group.supervised_step(sequences(MANY, 6))
    assert job.group.restore(directory) == {"step": 6}
    job.kill_in("supervised_step", 1)
    assert job.group.supervised_step(sequences(MANY, 6)) == expected
    assert job.told[2].endswith(f"go on from {directory}, where training began")
    assert [steps for steps, _ in job.group.ranks.call("copies", [()] * 2, "steps")] == [7, 7]


def test_whatever_else_is_asked_of_ranks_that_are_dead_is_asked_of_those_in_their_places(
    job: Job, model: str, tmp_path: Path
) -> None:
    job.load(model)
    job.group.supervised_step(sequences(8, 1))
    assert not job.group.came_back()
    os.kill(job.process(1), signal.SIGKILL)
    assert job.group.came_back()
    os.kill(job.process(1), signal.SIGKILL)
    update = job.group.publish(1, str(tmp_path), "float32")
    assert Path(update.path or "").is_file()
    assert [fault.who for fault in job.faults.seen] == ["learner rank 1", "learner rank 1"]


def test_a_rank_that_does_not_start_again_has_another_in_its_place(job: Job, model: str) -> None:
    job.load(model)
    job.group.supervised_step(sequences(8, 0))
    items = sequences(8, 1)
    expected = job.group.logprobs(items)
    # A first start of a second: those that follow may take 3, then 6, then 12.
    job.group.ranks._start_time = StartTime(120.0, 1.0, first=1.0)
    job.coming = [NeverMeets]
    os.kill(job.process(0), signal.SIGKILL)
    for ours, theirs in zip(job.group.logprobs(items), expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    # The second is the one that never meets; where the machine is busy rank 0 may be late as well, and is named first.
    assert job.faults.seen[0].who == "learner rank 0"
    assert len(job.faults.seen) >= 2
    assert job.faults.seen[-1].back is not None
    assert job.group.ranks._start_time.late == 0


def test_ranks_that_cannot_come_back_or_must_not_are_an_error(quiet: Quiet) -> None:
    """The last: these ranks stay dead. They have whole copies until those are taken away."""
    job = quiet.job
    assert job.told == []
    job.is_ending = True
    os.kill(job.process(0), signal.SIGKILL)
    with pytest.raises(ActorFailed):
        job.group.logprobs(sequences(8, 0))

    job.is_ending = False
    holder = job.holders.actors[1]
    assert holder is not None
    ray.get(holder.handle.drop.remote(), timeout=60)
    with pytest.raises(ActorFailed) as caught:
        job.group.supervised_step(sequences(8, 3))
    assert caught.value.kind == "learner"
    assert job.group.ranks.lacking == "for no copy of their state is whole on all of them"

    ray.kill(holder.handle)
    with pytest.raises(ActorFailed, match=r"a supervised step: learner rank 0 \(log: .*\) died"):
        job.group.supervised_step(sequences(8, 3))
    assert job.group.ranks.lacking == "for their copies are gone too"
    assert job.told == []
