"""Processes are found by the log they write to, and what is left of a run is named."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from commands import wait_until

from pipelines.faults.draws import DrawnFault
from pipelines.faults.trial import damage
from pipelines.faults.victims import Traces, victim, writers


@contextmanager
def process(log: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to a log and has this in its command line."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as opened:
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", name], stderr=opened)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


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
            found = victim(DrawnFault("kill", part, member, 1.0), mine)  # type: ignore[arg-type]
            assert (found and found.pid) == (expected and expected.pid), (part, member)
        assert {found.pid for found in writers(mine)} == {actor.pid, core.pid, rank.pid}
        psutil.Process(rank.pid).suspend()
        stopped = DrawnFault("stop", "learner rank", 1, 1.0)
        wait_until(lambda: victim(stopped, mine) is None, 30, "the process to be stopped")


def test_what_is_left_of_a_run_is_named_and_ended(tmp_path: Path) -> None:
    logs, name = tmp_path / "logs", f"chaos-test-{os.getpid()}"
    file = Path("/dev/shm") / name
    file.write_bytes(b"x" * mmap.PAGESIZE)
    try:
        with process(logs / "verifier.log", "ray::RewardVerifier") as left:
            traces = Traces(logs)
            with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0):
                traces.look(os.getpid())
                # This process has the name mapped, but is not the run's.
                assert traces.left_behind("no-such-name", seconds=0.1)[:-1] == []
            own = traces.left_behind(name, seconds=0.1)
            assert f"/dev/shm/{name}" in own
            assert [entry for entry in own if entry.startswith(f"process {left.pid} (")] != []
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
