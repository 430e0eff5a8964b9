"""Processes are found by the log they write to, and what is left of a run is named."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from commands import wait_until

from pipelines.faults.draws import DrawnFault
from pipelines.faults.trial import damage
from pipelines.faults.victims import Traces, victim, writers

_CODE = """
import os, subprocess, sys, time
names = os.environ.get("NAMES", "").split()
if names:
    below = os.environ | {"NAMES": " ".join(names[1:])}
    subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], names[0]], env=below)
time.sleep(600)
"""


@contextmanager
def process(log: Path, name: str, *below: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to a log and has this in its command line, its child that has the next, and so on."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as opened:
        started = subprocess.Popen(
            [sys.executable, "-c", _CODE, name], stderr=opened, env=os.environ | {"NAMES": " ".join(below)}
        )
    own = psutil.Process(started.pid)
    try:
        wait_until(lambda: len(own.children(recursive=True)) == len(below), 60, "its children")
        # For a moment after its start Linux has no command line of a process yet.
        wait_until(lambda: all(each.cmdline() for each in (own, *own.children(recursive=True))), 60, "their commands")
        yield started
    finally:
        # Unless a test has ended them.
        with suppress(psutil.NoSuchProcess):
            for each in (*own.children(recursive=True), own):
                each.kill()
        started.wait()


@pytest.mark.parametrize("engine", [("VLLM::EngineCore", "VLLM::Worker_TP0"), ("multiprocessing.spawn",) * 2])
def test_the_engine_core_is_known_by_its_parent(tmp_path: Path, engine: tuple[str, str]) -> None:
    """With the titles that vLLM gives its processes, and where that did not succeed."""
    with process(tmp_path / "logs" / "rollout-0.log", "ray::RolloutWorker", *engine) as actor:
        found = victim(DrawnFault("kill", "engine core", 0, 1.0), tmp_path / "logs", actor.pid)
        assert found is not None
        assert found.ppid() == actor.pid


def test_a_victim_is_of_the_run_and_of_the_part_that_was_drawn(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    with (
        process(mine / "rollout-0.log", "ray::RolloutWorker.generate") as actor,
        process(mine / "rollout-0.log", "VLLM::EngineCore") as core,
        process(mine / "learner-1.log", "ray::Learner") as rank,
        process(others / "learner-0.log", "ray::Learner"),
    ):
        for part, member, expected in (
            ("rollout worker", 0, actor),
            ("engine core", 0, core),
            ("learner rank", 1, rank),
            ("learner rank", 0, None),
            ("engine core", 1, None),
            ("verifier", 0, None),
        ):
            found = victim(DrawnFault("kill", part, member, 1.0), mine, actor.pid)  # type: ignore[arg-type]
            assert (found and found.pid) == (expected and expected.pid), (part, member)
        assert {found.pid for found in writers(mine)} == {actor.pid, core.pid, rank.pid}
        psutil.Process(rank.pid).suspend()
        stopped = DrawnFault("stop", "learner rank", 1, 1.0)
        wait_until(lambda: victim(stopped, mine, actor.pid) is None, 30, "the process to be stopped")


# A driver with one process of its own: what this test process has started besides, as Ray for other tests, is not its.
_DRIVER = "import subprocess, sys; subprocess.run(sys.argv[1:])"


@pytest.mark.parametrize(("part", "program"), [("raylet", "raylet"), ("GCS", "gcs_server")])
def test_rays_processes_are_the_drivers_own(tmp_path: Path, part: str, program: str) -> None:
    run = tmp_path / program
    shutil.copy("/bin/sleep", run)
    fault = DrawnFault("kill", part, 0, 1.0)  # type: ignore[arg-type]
    with (
        process(tmp_path / "logs" / "driver.log", "driver") as other,
        subprocess.Popen([sys.executable, "-c", _DRIVER, str(run), "600"]) as driver,
    ):
        own = psutil.Process(driver.pid)
        try:
            wait_until(lambda: [each.name() for each in own.children()] == [program], 30, "the program")
            [ray] = own.children()
            assert victim(fault, tmp_path / "logs", other.pid) is None, "it is another's"
            found = victim(fault, tmp_path / "logs", driver.pid)
            assert found is not None
            assert found.pid == ray.pid
        finally:
            for each in (*own.children(), own):
                each.kill()


@pytest.mark.slow
def test_what_is_left_of_a_run_is_named_and_ended(tmp_path: Path) -> None:
    logs, name = tmp_path / "logs", f"chaos-test-{os.getpid()}"
    file = Path("/dev/shm") / name
    file.write_bytes(b"x" * mmap.PAGESIZE)
    try:
        with process(logs / "verifier.log", "ray::RewardVerifier") as left:
            traces = Traces(logs)
            with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0):
                traces.look(left.pid)
                # This process has the name mapped, but is not the run's.
                [only] = traces.left_behind("no-such-name", seconds=0.1)
                assert only.startswith(f"process {left.pid} (")
            own = traces.left_behind(name, seconds=0.1)
            assert f"/dev/shm/{name}" in own
            assert only in own
            traces.end()
            left.wait(timeout=30)
            assert traces.left_behind("no-such-name", seconds=0.1) == []
    finally:
        file.unlink()


def test_damage_changes_the_largest_file_and_not_its_size(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(bytes(1000))
    (tmp_path / "__1_0.distcp").write_bytes(bytes(2000))
    file = damage(tmp_path)
    assert file.name == "__1_0.distcp"
    changed = file.read_bytes()
    assert (len(changed), changed.count(b"\xff"), changed[1000:1016]) == (2000, 16, b"\xff" * 16)
    assert (tmp_path / "__0_0.distcp").read_bytes() == bytes(1000)
