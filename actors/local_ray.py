"""Ray's own processes on this machine, without which a driver cannot go on: it ends at once where one of them ends.

Left to Ray, a driver waits a minute for its cluster's GCS, and without end for its node's raylet; and actors of a node
whose raylet is gone live on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from actors.predecessor import is_of_this_driver
from actors.processes import kill, started

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_STATUS = 1
# What Ray calls them, by the names of their programs.
_PROGRAMS = {"raylet": "raylet, which runs this node,", "gcs_server": "GCS, which knows the cluster,"}


def end_with_ray() -> None:
    """Watch the raylet of this process's node, and the GCS where the cluster is this process's own, from now until
    ``ray.shutdown``. When one ends, actors on this machine are killed, why is said, and the process exits with status
    1: what it would still do needs Ray. The same command continues a run."""
    from ray._private import worker

    node = worker._global_node
    if watched := _watched(node):
        arguments = (watched, lambda: _in_use(node), node.get_logs_dir_path())
        threading.Thread(target=_watch, args=arguments, name="ray's processes", daemon=True).start()


def _watched(node: Any) -> dict[str, psutil.Process]:
    """By the names of their programs."""
    own = set(psutil.Process().children())
    # The whole argument: of two nodes on one machine the one's socket may be called as the other's, and .1 after it.
    socket = f"--raylet_socket_name={node.raylet_socket_name}"
    found = {}
    for process in psutil.process_iter():
        # It may have ended, or be another user's.
        with contextlib.suppress(psutil.Error):
            name = process.name()
            is_ours = process in own if node.head else socket in process.cmdline()
            if name in _PROGRAMS and is_ours:
                found[name] = process
    return found


def _in_use(node: Any) -> bool:
    """Whether this process is still connected through this node, and not at shutting down."""
    import ray
    from ray._private import worker

    return ray.is_initialized() and worker._global_node is node


def _watch(watched: dict[str, psutil.Process], is_in_use: Callable[[], bool], logs: str) -> None:
    while is_in_use():
        if (ended := [name for name, process in watched.items() if not _runs(process)]) and is_in_use():
            _end(ended[0], watched, logs)
        time.sleep(_LOOK_SECONDS)


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def _end(name: str, watched: dict[str, psutil.Process], logs: str) -> None:
    message = (
        f"Ray's {_PROGRAMS[name]} has ended, killed or out of memory: nothing can go on without it. Its logs are in "
        f"{logs}. Run the same command again: it continues where this one was saved last"
    )
    log.error("%s", message)
    _kill_what_it_ran(watched)
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {message}\n")
    sys.stderr.flush()
    os._exit(_STATUS)


def _kill_what_it_ran(watched: dict[str, psutil.Process]) -> None:
    """Kill this driver's actors on this machine and what they started; of a cluster of its own, all that is Ray's."""
    raylet, own = watched.get("raylet"), psutil.Process().children(recursive=True)
    is_own = any(process in own for process in watched.values())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            of_raylet = is_own and raylet is not None and environment.get("RAY_RAYLET_PID") == str(raylet.pid)
            of_driver = is_of_this_driver(environment) or (is_own and process in own and _is_rays(process))
            if (of_raylet or of_driver) and process.pid != os.getpid():
                found.append((process.pid, started(process.pid)))
    kill(found)


def _is_rays(process: psutil.Process) -> bool:
    return "/ray/" in " ".join(process.cmdline())
