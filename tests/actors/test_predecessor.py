"""What a dead driver of the same run has left is ended, stopped or not; what is another run's, or one's own, is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest
import ray
import ray.cloudpickle
from commands import wait_until
from ray.util import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors import predecessor
from actors.predecessor import end_predecessor, environment_of, group_name, kill_processes

# Processes of the cluster do not find this folder: send them the class, not its name.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SLEEP = "import time; time.sleep(600)"


class Parent:
    """An actor with a process of its own, as an engine has."""

    def __init__(self) -> None:
        self.child = subprocess.Popen([sys.executable, "-c", SLEEP])

    def processes(self) -> tuple[int, int]:
        return os.getpid(), self.child.pid


def left_by(driver: str, run: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[psutil.Process], Any]:
    """An actor of a driver, its processes, and a placement group."""
    monkeypatch.setattr(predecessor, "_DRIVER", driver)
    group = placement_group([{"CPU": 0.5}], name=group_name(run))
    assert group.wait(60)
    options: dict[str, Any] = {"num_cpus": 0.5, "runtime_env": {"env_vars": environment_of(run)}}
    actor = (
        ray.remote(Parent).options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0), **options).remote()
    )
    return actor, [psutil.Process(number) for number in ray.get(actor.processes.remote(), timeout=120)], group


def states(*groups: Any) -> list[str]:
    table = placement_group_table()
    return [table[group.id.hex()]["state"] for group in groups]


def test_what_a_dead_driver_of_the_same_run_has_left_is_ended_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    dead, of_dead, dead_group = left_by("before", "mine", monkeypatch)
    other, of_other, other_group = left_by("before", "other", monkeypatch)
    own, of_own, own_group = left_by("now", "mine", monkeypatch)
    try:
        os.kill(of_dead[1].pid, signal.SIGSTOP)
        groups, killed = end_predecessor("mine")
        assert groups == "1 placement groups with their actors"
        assert killed in ("1 processes", "2 processes"), "Ray may have ended the actor first"
        assert psutil.wait_procs(of_dead, timeout=30)[1] == [], "the stopped engine too"
        wait_until(lambda: states(dead_group) == ["REMOVED"], 30, "the bundle to be given back")
        assert states(other_group, own_group) == ["CREATED", "CREATED"]
        for actor, processes in ((other, of_other), (own, of_own)):
            assert ray.get(actor.processes.remote(), timeout=60) == tuple(process.pid for process in processes)
            assert all(process.is_running() for process in processes)
        assert end_predecessor("mine") == []
    finally:
        for actor in (dead, other, own):
            ray.kill(actor)
        for process in (*of_dead, *of_other, *of_own):
            if process.is_running():
                process.kill()
        for group in (other_group, own_group):
            ray.util.remove_placement_group(group)


def test_processes_are_known_by_run_and_driver() -> None:
    def started(value: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLEEP], env=os.environ | {predecessor._VARIABLE: value})

    values = ("run/before", "run/now", "another/before", "run", "")
    processes = [started(value) for value in values]
    try:
        wait_until(
            lambda: all(psutil.Process(each.pid).cmdline()[1:2] == ["-c"] for each in processes), 30, "processes"
        )
        assert kill_processes("run", "now") == [processes[0].pid]
        assert processes[0].wait(timeout=30) == -signal.SIGKILL
        assert [process.poll() for process in processes[1:]] == [None] * 4
    finally:
        for process in processes:
            process.kill()
            process.wait()
