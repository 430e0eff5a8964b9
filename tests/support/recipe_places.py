"""Where the members of every recipe lie on four nodes of eight devices that are only counted.

A process of its own, because one process joins one cluster. Run as a script it prints JSON:
``{recipe: [[role, member, node, [devices]], ...]}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from actors.placement import reserve
from pipelines.config import Config
from pipelines.config.compose import CONF, load_config
from pipelines.job.settings import roles

DEVICES = 8
"""Of each node."""
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
# The same shares of a node's cores as the recipes ask for, on nodes of two: Ray starts a process per core.
CORES = ("cluster.rollout_cpus=0.2", "cluster.learner_cpus=0.1", "cluster.verifier_cpus=0.05")

Place = tuple[str, int, str, list[str]]
"""A role, a member, its node, and the devices that CUDA shows there."""


def config_of(recipe: str) -> Config:
    return load_config([f"recipe={recipe}", *CORES])


def all_places() -> dict[str, list[Place]]:
    """What this script prints, from a process of its own."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, __file__], stdout=subprocess.PIPE, text=True, cwd=root, timeout=600, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _here() -> tuple[str, list[str]]:
    import ray

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return ray.get_runtime_context().get_node_id(), list(filter(None, visible.split(",")))


def _places(config: Config) -> list[Any]:
    """Tasks stand in for actors: they take the same options."""
    import ray

    wanted = roles(config)
    placement = reserve(wanted, 120.0)
    task = ray.remote(max_retries=0)(_here)
    found = [
        (role.name, member, *ray.get(task.options(**placement.options(role.name, member)).remote(), timeout=120))
        for role in wanted
        for member in range(role.count)
    ]
    placement.release()
    return found


def _main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": DEVICES, "include_dashboard": False, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(3):
        cluster.add_node(wait=False, **node)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        cluster.wait_for_nodes()
        found = {recipe: _places(config_of(recipe)) for recipe in RECIPES}
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
