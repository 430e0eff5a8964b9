"""Waits: results in order, and errors that say for what and on whom, and leave in the log what it was doing."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.deadlines import ActorFailed, DeadlineExceeded, NamedActor, failure, get, settled, wait
from actors.logs import redirect_output, write_stacks

pytestmark = pytest.mark.ray


class Gone(RuntimeError):
    """An error that says what has died."""

    kind = "engine"


class Worker:
    """An actor that answers, raises, dies or waits as it is told."""

    def __init__(self, log: str) -> None:
        redirect_output(log)

    def answer(self, value: int) -> int:
        return value

    def lose_a_peer(self) -> None:
        raise RuntimeError("[pair.cc:534] Connection closed by peer [10.0.0.2]:41234")

    def lose_its_engine(self) -> None:
        time.sleep(3.0)
        raise Gone("its engine's process has ended")

    def die_late(self) -> None:
        time.sleep(4.0)
        os._exit(1)

    def refuse(self) -> None:
        raise KeyError("no such shelf")

    def die(self) -> None:
        os._exit(1)

    def run_late(self) -> None:
        raise TimeoutError("its own")

    def wait_for_ever(self) -> None:
        time.sleep(1e6)

    def hold_the_interpreter(self) -> None:
        # Unlike `ctypes.CDLL`, this keeps the interpreter's lock: no other thread of the process runs Python.
        ctypes.PyDLL(None).sleep(1000)


@pytest.fixture
def workers(cluster: None, tmp_path: Path) -> Iterator[list[NamedActor]]:
    """Two actors that have started: deadlines below are for their answers, not for the start of processes."""
    import ray

    made = []
    for name in ("first", "second"):
        log = str(tmp_path / f"{name}.log")
        made.append(NamedActor(ray.remote(Worker).options(num_cpus=0).remote(log), name, log))
    ray.get([worker.handle.answer.remote(0) for worker in made], timeout=120)
    yield made
    for worker in made:
        ray.kill(worker.handle)


def test_answers_come_in_the_order_of_the_references(workers: list[NamedActor]) -> None:
    asked = [workers[index % 2] for index in range(5)]
    references = [worker.handle.answer.remote(index) for index, worker in enumerate(asked)]
    assert get(references, 60, "answers", asked) == [0, 1, 2, 3, 4]
    assert get([], 1, "nothing", []) == []


def test_error_names_the_wait_the_actor_its_log_and_the_cause(workers: list[NamedActor]) -> None:
    references = [workers[0].handle.wait_for_ever.remote(), workers[1].handle.refuse.remote()]
    with pytest.raises(
        ActorFailed, match=r"a book: second \(log: .*second\.log\) failed: KeyError: 'no such shelf'"
    ) as error:
        get(references, 50, "a book", workers)
    assert error.value.is_defect, "whose traceback is worth reading"


def test_death_goes_before_the_errors_it_causes(workers: list[NamedActor]) -> None:
    references = [workers[0].handle.refuse.remote(), workers[1].handle.die.remote()]
    with pytest.raises(ActorFailed, match=r"a book: second \(log: .*\) died"):
        get(references, 60, "a book", workers)


@pytest.mark.parametrize(("method", "said"), [("die_late", "died"), ("lose_its_engine", "failed: Gone")])
def test_who_lost_a_peer_is_asked_only_until_that_ones_death_is_known(
    method: str, said: str, workers: list[NamedActor]
) -> None:
    others = [*workers, workers[0]]
    # The last one waits in the same collective, and is not waited for.
    calls = ("lose_a_peer", method, "wait_for_ever")
    with pytest.raises(ActorFailed, match=rf"a step: second \(log: .*\) {said}"):
        get([getattr(who.handle, call).remote() for who, call in zip(others, calls, strict=True)], 60, "a step", others)


def test_an_actor_that_cannot_be_reached_is_asked_until_it_is_known_what_became_of_it(
    workers: list[NamedActor],
) -> None:
    from deaths import kill_actor  # Here: the cluster's processes import this file, and do not find that one.
    from ray.exceptions import ActorUnavailableError

    alive, dead = (replace(worker, kind="engine") for worker in workers)
    kill_actor(dead.handle)
    lost = [failure(ActorUnavailableError("RpcError", None), "traces", worker) for worker in (alive, dead)]
    assert str(lost[0]) == f"traces: {alive} cannot be reached: the connection to its process was lost"
    assert settled(lost[0]) is lost[0], "it answers"
    found = settled(lost[1])
    assert str(found).startswith(f"traces: {dead} died: ")
    assert (found.kind, found.actor, found.is_unsettled) == ("engine", dead, False)
    assert settled(found) is found


def test_a_late_actor_is_named_and_its_log_says_what_it_was_doing(workers: list[NamedActor]) -> None:
    references = [workers[0].handle.answer.remote(1), workers[1].handle.wait_for_ever.remote()]
    with pytest.raises(DeadlineExceeded) as error:
        get(references, 2, "a book", workers)
    assert str(error.value) == f"waited 2 s for a book; no answer from {workers[1]}, now with its stacks"
    assert "second.log" in str(error.value)
    assert "in wait_for_ever" in Path(str(workers[1].log)).read_text()
    assert "wait_for_ever" not in Path(str(workers[0].log)).read_text(), "only those waited for"


def test_stacks_are_written_where_no_thread_can_run_python(workers: list[NamedActor]) -> None:
    with pytest.raises(DeadlineExceeded, match="now with its stacks"):
        get([workers[0].handle.hold_the_interpreter.remote()], 2, "a book", workers[:1])
    assert "in hold_the_interpreter" in Path(str(workers[0].log)).read_text()


def test_one_answer_is_waited_for_in_an_event_loop_with_the_same_errors(workers: list[NamedActor]) -> None:
    async def of(reference: Any, seconds: float) -> Any:
        return await wait(reference, seconds, "a book", workers[0])

    handle = workers[0].handle
    assert asyncio.run(of(handle.answer.remote(7), 60)) == 7
    with pytest.raises(ActorFailed, match=r"a book: first \(log: .*\) failed: TimeoutError: its own") as error:
        asyncio.run(of(handle.run_late.remote(), 60))
    assert not error.value.is_defect
    with pytest.raises(DeadlineExceeded, match=r"waited 2 s for a book; no answer from first .*now with its stacks"):
        asyncio.run(of(handle.wait_for_ever.remote(), 2))


def test_processes_that_would_end_by_the_signal_are_not_sent_it(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    with log.open("w") as file:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=file)
    assert write_stacks([str(log), str(tmp_path / "none.log")]) == []
    child.communicate(b"\n", timeout=60)
    assert child.returncode == 0
