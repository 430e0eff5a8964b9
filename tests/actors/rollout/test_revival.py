"""Workers that die come back, hold the current weights, and no trace is missing or there twice. No engines."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from commands import wait_until
from deaths import kill_actor
from rollout_actors import UPDATE, reviving, workers

from actors.deadlines import ActorFailed, NamedActor
from actors.liveness import Patience
from actors.messages import GenerationFailure, MemoryUse, Prompt, Sampling, Trace
from actors.monitor import Monitor
from actors.restarts import Faults, RestartsExhausted, StartTime
from actors.rollout.fleet import RolloutFleet
from actors.turns import Turns

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class Learners:
    """Says what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def take_device(self) -> None:
        self.told.append("came")

    def leave_device(self) -> list[MemoryUse]:
        self.told.append("left")
        return [MemoryUse(0, 0)]


def revived(folder: Path, *first: str, later: tuple[str, ...] = (), most: int = 20) -> tuple[RolloutFleet, Faults]:
    """A fleet whose workers begin with the faults of ``first``; those that come later with ``later``'s."""
    faults = Faults(most, 3600.0)
    fleet = RolloutFleet(workers(folder, *first), 60.0, reviving(folder, faults, *later))
    fleet.start(0, 120.0)
    return fleet, faults


def generate(fleet: RolloutFleet, count: int, samples: int = 2) -> list[Any]:
    prompts = [Prompt(str(index), str(index), "chosen_first", "A", "d", (index,)) for index in range(count)]

    async def collect() -> list[Any]:
        return [item async for ready in fleet.generate(prompts, Sampling(samples)) for item in ready]

    return asyncio.run(asyncio.wait_for(collect(), 120))


def ended(items: list[Trace | GenerationFailure]) -> Counter[tuple[str, int]]:
    return Counter((item.prompt_uid, item.sample) for item in items)


def once(count: int, samples: int = 2) -> Counter[tuple[str, int]]:
    return Counter({(str(prompt), sample): 1 for prompt in range(count) for sample in range(samples)})


def all_back(faults: Faults) -> bool:
    return bool(faults.seen) and all(fault.back is not None for fault in faults.seen)


@pytest.mark.parametrize("others", [("",), ()])
def test_what_a_dead_worker_owed_is_brought_by_another_or_by_itself_when_it_is_back(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    fleet, faults = revived(tmp_path, "die", *others)
    traces = generate(fleet, 6)
    assert ended(traces) == once(6)
    assert all(isinstance(item, Trace) for item in traces)
    wait_until(lambda: all_back(faults), 60, "the worker")
    assert [(fault.kind, fault.who) for fault in faults.seen] == [("engine", "rollout worker 0")]
    assert fleet._traffic.in_flight == [0] * (1 + len(others))
    assert faults.metrics() == {"restarts/engine": 1.0}


def test_a_worker_that_does_not_start_again_has_another_in_its_place(tmp_path: Path) -> None:
    """One that was stopped while it started, say: the run does not wait as long as any start may take."""
    faults = Faults(20, 3600.0)
    start = StartTime(120.0, 4.0)
    fleet = RolloutFleet(workers(tmp_path, "die"), 60.0, reviving(tmp_path, faults, "never starts", start=start))
    fleet.start(0, 120.0)
    start.took(0.5)
    assert ended(generate(fleet, 4)) == once(4)
    wait_until(lambda: faults.seen[-1].back is not None, 60, "the worker")
    # On a busy machine others may be late as well.
    late = [fault.why.partition(" (log")[0] for fault in faults.seen][1:]
    assert late[0] == "did not start within 5 s"
    assert all(why.startswith("did not start within") for why in late)
    assert start.late == 0
    assert faults.metrics() == {"restarts/engine": 1.0 + len(late)}


def test_a_worker_works_only_with_the_weights_that_the_others_hold(tmp_path: Path) -> None:
    """It died before, or while, they were published; either way it is given no work under those it loaded."""
    fleet, faults = revived(tmp_path, "", "")
    fleet.update_weights(UPDATE)
    kill_actor(fleet.workers[0].handle)
    traces = generate(fleet, 8)
    assert ended(traces) == once(8)
    assert {int(item.versions[0]) for item in traces} == {UPDATE.version}
    wait_until(lambda: all_back(faults), 60, "the worker")
    kill_actor(fleet.workers[1].handle)
    assert fleet.update_weights(UPDATE) == 0.25
    assert {int(item.versions[0]) for item in generate(fleet, 8)} == {UPDATE.version}


def test_a_worker_waits_for_the_next_weights_where_those_before_ended_with_their_learner(tmp_path: Path) -> None:
    fleet, faults = revived(tmp_path, "", "", later=("cannot open 1",))
    fleet.update_weights(UPDATE)
    kill_actor(fleet.workers[0].handle)
    log = tmp_path / "rollout-0.log"
    assert ended(generate(fleet, 4)) == once(4)
    wait_until(lambda: log.read_text().count("started on") == 2, 60, "another in its place")
    assert not all_back(faults)
    assert fleet.roster.present() == [1]
    fleet.update_weights(replace(UPDATE, version=2))
    wait_until(lambda: all_back(faults), 60, "the worker")
    assert {int(item.versions[0]) for item in generate(fleet, 8)} == {2}
    assert len(faults.seen) == 1


def test_who_waits_for_the_only_worker_is_told_where_its_weights_ended_with_a_learner_that_is_dead(
    tmp_path: Path,
) -> None:
    """Otherwise the worker would wait for weights, their publisher for traces, and the traces for the worker."""
    fleet, faults = revived(tmp_path, "", later=("cannot open 1",))
    fleet.update_weights(UPDATE)
    kill_actor(fleet.workers[0].handle)
    died, rank = ActorFailed("a sign of life: learner rank 0 died"), NamedActor(None, "learner rank 0", None, "learner")
    died.kind, died.actor = "learner", rank
    fleet.roster.learner_lost(rank, died)
    with pytest.raises(ActorFailed, match="learner rank 0 died") as caught:
        generate(fleet, 4)
    assert caught.value is died
    fleet.update_weights(replace(UPDATE, version=2))
    wait_until(lambda: all_back(faults), 60, "the worker")
    assert {int(item.versions[0]) for item in generate(fleet, 8)} == {2}


def test_on_devices_that_learners_share_a_worker_starts_when_they_have_left(tmp_path: Path) -> None:
    turns, faults, learners = Turns(60.0), Faults(20, 3600.0), Learners()
    turns.attach(learners=learners)
    fleet = RolloutFleet(workers(tmp_path, "", ""), 60.0, reviving(tmp_path, faults), turns)
    fleet.start(0, 120.0)
    assert ended(generate(fleet, 4)) == once(4)
    with turns.learners():
        dead = fleet.workers[0]
        ray.kill(dead.handle)
        fleet.roster.lost(dead, ActorFailed(f"{dead} died"))
        wait_until(lambda: bool(faults.seen), 30, "the death to be known")
        log = (tmp_path / "rollout-1.log").read_text().splitlines()
        assert log[1:] == ["fell asleep"]
    wait_until(lambda: all_back(faults), 60, "the worker")
    assert learners.told == ["came", "left"]
    assert (tmp_path / "rollout-1.log").read_text().splitlines()[1:] == ["fell asleep", "woke weights", "woke kv_cache"]
    with turns.publishing():
        fleet.update_weights(UPDATE)
    assert learners.told == ["came", "left"] * 2
    fresh = (tmp_path / "rollout-0.log").read_text().splitlines()
    assert fresh[-3:] == ["fell asleep", "woke weights", "woke kv_cache"], "with the others, from then on"
    assert {int(item.versions[0]) for item in generate(fleet, 8)} == {UPDATE.version}


def test_a_worker_that_dies_asleep_is_no_error_of_the_turn(tmp_path: Path) -> None:
    turns, faults, learners = Turns(60.0), Faults(20, 3600.0), Learners()
    turns.attach(learners=learners)
    fleet = RolloutFleet(workers(tmp_path, "", ""), 60.0, reviving(tmp_path, faults), turns)
    fleet.start(0, 120.0)
    with turns.learners():
        pass
    kill_actor(fleet.workers[0].handle)
    with turns.publishing():
        fleet.update_weights(UPDATE)
    assert ended(generate(fleet, 8)) == once(8)
    wait_until(lambda: all_back(faults), 60, "the worker")
    assert {int(item.versions[0]) for item in generate(fleet, 8)} == {UPDATE.version}


def test_a_prompt_that_engines_die_of_is_found_and_set_aside_and_no_other_is(tmp_path: Path) -> None:
    fleet, faults = revived(tmp_path, *["dies of 3"] * 2, later=("dies of 3",) * 9)
    items = generate(fleet, 7)
    assert ended(items) == once(7)
    failures = [item for item in items if isinstance(item, GenerationFailure)]
    assert [(item.prompt_uid, item.cause, item.kind) for item in failures] == [("3", "kills_engines", "data")] * 2
    assert len(faults.seen) == 4


def test_one_death_too_many_ends_the_run_and_says_which_settings_count(tmp_path: Path) -> None:
    fleet, faults = revived(tmp_path, "die", later=("die",) * 9, most=2)
    with pytest.raises(RestartsExhausted, match=r"^rollout worker 0 died: .*: 2 restarts within 3600 s .*max_restarts"):
        generate(fleet, 9)
    assert len(faults.seen) == 3


def test_a_worker_that_raises_when_it_starts_again_ends_the_run_as_it_would_at_the_beginning(tmp_path: Path) -> None:
    fleet, _ = revived(tmp_path, "die", later=("refuses to start",))
    with pytest.raises(ActorFailed, match=r"rollout worker 0 .*failed: ValueError: no start"):
        generate(fleet, 3)


def test_a_stopped_worker_is_killed_at_its_deadline_and_comes_back(tmp_path: Path) -> None:
    fleet, faults = revived(tmp_path, "", "")
    monitor = Monitor(every=0.2)
    for worker in fleet.workers:
        monitor.watch(worker, Patience(2.0, 10.0, 2.0), fleet.roster.lost)
    try:
        (number, _), *_ = ray.get(fleet.workers[0].handle.processes.remote()).members
        wait_until(lambda: monitor._watched["rollout worker 0"].processes is not None, 30, "the monitor")
        os.kill(number, signal.SIGSTOP)
        assert ended(generate(fleet, 6)) == once(6)
        wait_until(lambda: all_back(faults), 60, "the worker")
        assert "was stuck: it did not move for 2 s" in faults.seen[0].why
        assert not Path(f"/proc/{number}").exists()
        assert fleet.roster.present() == [0, 1]
    finally:
        monitor.close()
