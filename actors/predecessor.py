"""What a driver that died may have left on a cluster that stands, found and ended by the next driver of the same run.

Ray ends a driver's actors when it notices the driver's death, which may be late where that was on another node. What is
stopped does not end, nor does an engine that is stopped when its actor is killed. So placement groups, with which their
actors end, have names that tell run and driver, and processes have both in their environment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from typing import Any

import psutil

from actors.processes import kill, started

_VARIABLE = "REASONING_REWARD_MODELS_RUN"
_NAMESPACE = "reasoning-reward-models"
# This process: what it started itself has no predecessor, also where a run has several sessions.
_DRIVER = secrets.token_hex(8)
_NODE_SECONDS = 20.0
"""For nodes to kill processes; one that does not answer is left out."""


def environment_of(run: str) -> dict[str, str]:
    """Variables by which processes of an actor, and those that they start, are known as this driver's."""
    return {_VARIABLE: f"{run}/{_DRIVER}"}


def is_of_this_driver(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables is of an actor of this driver's, or was started by one."""
    return environment.get(_VARIABLE, "").endswith(f"/{_DRIVER}")


def group_name(run: str) -> str:
    """The name of a placement group of this driver's."""
    return f"{_namespace(run)}/{_DRIVER}/{secrets.token_hex(4)}"


def end_predecessor(run: str) -> list[str]:
    """End what another driver of this run has left; returns what that was, in words.

    Only for a driver that holds the lock of the run's folder: then every other one is dead.

    Args:
        run: what no other run of the cluster is called.

    """
    ended = []
    if groups := _remove_groups(run):
        ended.append(f"{groups} placement groups with their actors")
    if processes := _kill_on_all_nodes(run):
        ended.append(f"{processes} processes")
    return ended


def _namespace(run: str) -> str:
    return f"{_NAMESPACE}/{run}"


def _remove_groups(run: str) -> int:
    from ray import PlacementGroupID
    from ray.util import placement_group_table
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    found = 0
    for number, group in placement_group_table().items():
        ours, _, driver = group["name"].partition(f"{_namespace(run)}/")
        if not ours and driver and driver.partition("/")[0] != _DRIVER and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(number))))
            found += 1
    return found


def _kill_on_all_nodes(run: str) -> int:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    killed = len(kill_processes(run, _DRIVER))
    here = ray.get_runtime_context().get_node_id()
    task: Any = ray.remote(num_cpus=0, max_retries=0)(kill_processes)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            run, _DRIVER
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_NODE_SECONDS) if asked else ([], [])
    for answer in answered:
        with contextlib.suppress(RayError):
            killed += len(ray.get(answer, timeout=_NODE_SECONDS))
    return killed


def kill_processes(run: str, driver: str) -> list[int]:
    """Kill processes of this machine that another driver's actors of this run are, or have started.

    SIGKILL, which ends stopped processes too; what only they have in shared memory goes with them. Returns their
    numbers.
    """
    found = []
    for process in psutil.process_iter():
        # It may have ended, or be another user's.
        with contextlib.suppress(psutil.Error, OSError):
            of_run, _, of_driver = process.environ().get(_VARIABLE, "").rpartition("/")
            if of_run == run and of_driver != driver and process.pid != os.getpid():
                found.append((process.pid, started(process.pid)))
    return kill(found)
