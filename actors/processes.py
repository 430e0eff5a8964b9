"""Processes told apart from later ones of the same number, so that those of an actor can be killed, and no others."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from actors.shared_memory import of_engines, remove_unused

_TRACKER = "from multiprocessing.resource_tracker import main"
_ENDING_SECONDS = 5.0
"""For processes that are killed to be gone."""
_KILL_SECONDS = 20.0
"""For a node to kill processes; one that does not answer has lost them, or will be found lost."""


def titled(title: str) -> Callable[[psutil.Process], bool]:
    """Whether a process has this in its command line, as those that Ray gives its actors."""
    return lambda process: title in " ".join(process.cmdline())


def is_engine(process: psutil.Process) -> bool:
    """Whether this is a process of an engine: vLLM's core, or one of several that share its layers.

    Not by vLLM's titles alone: setproctitle gives none, and says nothing, in a process that has set the first variable
    of its environment anew, and the order of Ray's is another each time.

    Raises:
        psutil.Error: the process has ended.

    """
    line = " ".join(process.cmdline())
    return "VLLM::" in line or "multiprocessing.spawn" in line


def is_engine_core(process: psutil.Process) -> bool:
    """Whether this is an engine's first process, which its actor started.

    Raises:
        psutil.Error: the process has ended.

    """
    parent = process.parent()
    return is_engine(process) and not (parent and is_engine(parent))


@dataclass(frozen=True, slots=True)
class Processes:
    """An actor's process and those it started."""

    node: str
    """Ray's id of the node they are on."""
    members: tuple[tuple[int, int], ...]
    """Number and moment of start of each, as :func:`started`; the actor's own is the first."""
    names: tuple[str, ...] = ()
    """In shared memory, which go when they are killed."""


def started(number: int) -> int:
    """When a process was started, in clock ticks since the machine was (proc(5), ``starttime``).

    Not psutil's ``create_time``, which moves by a second when the machine's clock is set right.

    Raises:
        OSError: there is no such process.

    """
    return int(Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def of_this_actor() -> Processes:
    """The process this is called in, and those under it."""
    import ray

    own = psutil.Process()
    together = (own, *own.children(recursive=True))
    members = []
    for process in together:
        with contextlib.suppress(OSError):
            members.append((process.pid, started(process.pid)))
    return Processes(ray.get_runtime_context().get_node_id(), tuple(members), of_engines(together))


def kill(members: Sequence[tuple[int, int]], names: Sequence[str] = ()) -> list[int]:
    """Kill those of the processes of this machine that still run, and what they have started; returns their numbers.

    SIGKILL, which ends stopped processes too. Of ``names`` in shared memory, and those that they have besides, what
    nobody else uses is removed.
    """
    found: dict[int, psutil.Process] = {}
    for number, moment in members:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(number)
            if started(number) == moment:
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    shared = {*names, *of_engines(found.values())}
    killed = []
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            if not _cleans_up(process):
                # By psutil, which compares the moment of start once more.
                process.kill()
                killed.append(process)
    if shared:
        psutil.wait_procs(killed, timeout=_ENDING_SECONDS)
        remove_unused(shared)
    return [process.pid for process in killed]


def _cleans_up(process: psutil.Process) -> bool:
    """Whether this is Python's resource tracker, which removes what those that it is of have left, semaphores too, and
    ends when they have ended."""
    return _TRACKER in " ".join(process.cmdline())


@functools.cache
def end_with_parent() -> None:
    """From now on this process, which another has started by multiprocessing, ends when that one has; others do not.

    Ray ends what a dead actor had started, but not where Ray itself has ended, as after the death of a driver with a
    cluster of its own: an engine that stayed would hold its device's memory for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()


def kill_if_here(processes: Processes) -> bool:
    """:func:`kill`, if they are on this node; whether they are."""
    import ray

    is_here = processes.node == ray.get_runtime_context().get_node_id()
    if is_here:
        kill(processes.members, processes.names)
    return is_here


def kill_on_node(processes: Processes) -> None:
    """:func:`kill` on the node where they are; nothing where that node is gone."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if kill_if_here(processes):
        return
    if not any(node["NodeID"] == processes.node and node["Alive"] for node in ray.nodes()):
        return
    strategy = NodeAffinitySchedulingStrategy(processes.node, soft=False)
    with contextlib.suppress(RayError):
        asked = ray.remote(num_cpus=0, max_retries=0)(kill).options(scheduling_strategy=strategy)
        ray.get(asked.remote(processes.members, processes.names), timeout=_KILL_SECONDS)
