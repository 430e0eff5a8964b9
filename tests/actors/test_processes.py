"""Processes are told apart from later ones of the same number."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from actors.processes import end_with_parent, kill, started
from actors.shared_memory import of_engines, remove_unused


@pytest.mark.slow
def test_a_process_is_killed_with_its_children_and_one_of_another_moment_is_not() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=sys.stdin)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while not (children := psutil.Process(parent.pid).children()):
            assert parent.poll() is None
        moment = started(parent.pid)
        assert started(children[0].pid) >= moment > started(os.getpid())
        assert kill([(parent.pid, moment - 1)]) == []
        assert parent.poll() is None
        assert kill([(parent.pid, moment)]) == [parent.pid, children[0].pid]
        assert psutil.wait_procs(children, timeout=30)[1] == []
    finally:
        parent.kill()
        parent.wait()
    with pytest.raises(OSError, match=str(parent.pid)):
        started(parent.pid)
    assert kill([(parent.pid, moment)]) == []


def wait_for_ever(started: str) -> None:
    end_with_parent()
    Path(started).write_text(str(os.getpid()))
    time.sleep(600)


def start_one(started: str) -> None:
    multiprocessing.get_context("spawn").Process(target=wait_for_ever, args=(started,)).start()
    time.sleep(600)


@pytest.mark.slow
def test_what_a_process_has_started_ends_with_it(tmp_path: Path) -> None:
    """Nobody tells it: its parent is killed, as an actor whose Ray has ended."""
    file = tmp_path / "started"
    parent = multiprocessing.get_context("spawn").Process(target=start_one, args=(str(file),))
    parent.start()
    try:
        while not (file.exists() and file.read_text()):
            assert parent.is_alive()
            time.sleep(0.05)
        child = psutil.Process(int(file.read_text()))
        assert child.ppid() == parent.pid
        parent.kill()
        parent.join()
        assert psutil.wait_procs([child], timeout=30)[1] == []
    finally:
        parent.kill()


def test_a_process_that_was_not_started_by_another_ends_with_nobody() -> None:
    end_with_parent()
    assert "end-with-parent" not in {thread.name for thread in threading.enumerate()}


_SHARES = """
import multiprocessing, sys, time
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
lock = multiprocessing.get_context("spawn").Lock()
print(memory.name, lock._semlock.name.lstrip("/"), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_what_killed_processes_have_in_shared_memory_goes_with_them(stopped: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", _SHARES], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            memory, semaphore = process.stdout.readline().split()
            names = {memory, f"sem.{semaphore}"}
            assert names <= set(os.listdir("/dev/shm"))
            assert of_engines([psutil.Process(process.pid)]) == (memory,)
            assert remove_unused([memory]) == [], "it is in use"
            if stopped:
                psutil.Process(process.pid).suspend()
            (tracker,) = psutil.Process(process.pid).children()
            assert kill([(process.pid, started(process.pid))]) == [process.pid]
            assert memory not in os.listdir("/dev/shm")
            assert psutil.wait_procs([tracker], timeout=30)[1] == []
            assert not names & set(os.listdir("/dev/shm"))
        finally:
            process.kill()


def test_names_of_others_are_left_alone(tmp_path: Path) -> None:
    file = Path("/dev/shm") / f"mine-{os.getpid()}"
    file.write_bytes(b"x")
    try:
        assert remove_unused([file.name, "../etc/passwd", "psm_no_such_name"]) == []
        assert file.exists()
    finally:
        file.unlink()
