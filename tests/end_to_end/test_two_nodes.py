"""A standing cluster of two hosts whose names resolve to loopback: engines, ranks and weights go from one to the other.

The hosts are network namespaces of this machine, each with a Ray node, and a token that both know. Runs come by the job
server, as `make submit` sends them.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from commands import ROOT, SMALL, Runs, wait_until, without_ray
from leftovers import left_behind, left_in_shared_memory, of_actors
from safetensors.torch import load_file
from two_hosts import ADDRESSES, NoNamespaces, on, plug, two_hosts, unplug

from actors.shared_memory import mapped_by

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

# Nodes of two cores: an engine and a rank fill one, so each node has one of both.
SPREAD = ("rollout.workers=2", "cluster.rollout_cpus=1.2", "learner.ranks=2", "cluster.learner_cpus=0.8")
# A folder that cannot be made: weights that went through a file after all would stop the run.
NETWORK = ("cluster.weight_transfer=network", "cluster.weights_directory=/proc/no-weights-here")
JOINS = (f"--address={ADDRESSES[0]}:6399", f"--node-ip-address={ADDRESSES[1]}")
BIN = Path(sys.executable).parent
_STATE = """
import json, sys, ray
from ray.util import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
there = [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
print(json.dumps([there, ray.available_resources().get("CPU", 0.0), ray.cluster_resources()["CPU"]]))
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes, and what a command on the first one needs."""

    hosts: tuple[str, str]
    nodes: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
    environment: dict[str, str]
    project: Path
    outputs: Path

    def submitted(self, run: str, *overrides: str) -> subprocess.Popen[str]:
        """A run by way of the job server."""
        command = [sys.executable, "-m", "launch.submit", "--pipeline", "run", "--address", "http://127.0.0.1:8265"]
        arguments = [f"run={run}", f"output_root={self.outputs}", *SMALL, *SPREAD, *NETWORK, *overrides]
        return subprocess.Popen(
            on(self.hosts[0], [*command, "--", *arguments]),
            cwd=self.project,
            env=self.environment | {"PYTHONPATH": str(self.project)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on the two nodes."""
        return [child for node in self.nodes for child in psutil.Process(node.pid).children(recursive=True)]

    def driver(self) -> psutil.Process:
        """The process of the submitted pipeline."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if process.cmdline()[1:3] == ["-m", "pipelines.run"]:
                    found.append(process)
        (driver,) = found
        return driver

    def reserved(self) -> tuple[list[str], float, float]:
        """States of placement groups that are there, CPUs that are free, and all CPUs."""
        command = on(self.hosts[0], [sys.executable, "-c", _STATE, f"{ADDRESSES[0]}:6399"])
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        groups, free, cpus = json.loads(done.stdout.splitlines()[-1])
        return groups, free, cpus


@contextmanager
def node(host: str, log: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray node on a host, up when this is entered; it ends its own processes when it is told to end."""
    command = [str(BIN / "ray"), "start", *arguments, "--num-cpus=2", "--object-store-memory=100000000", "--block"]
    with log.open("w") as output:
        process = subprocess.Popen(on(host, command), env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "block forever" in log.read_text() or process.poll() is not None, 120, f"a node on {host}")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("two")
    project = folder / "project"
    for name in ("actors", "conf", "launch", "pipelines"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = without_ray() | token | {"HF_HUB_OFFLINE": "1"}
    with ExitStack() as stack:
        try:
            first, second = stack.enter_context(two_hosts())
        except NoNamespaces as why:
            pytest.skip(str(why))
        starts = ("--head", f"--node-ip-address={ADDRESSES[0]}", "--port=6399")
        head = stack.enter_context(node(first, folder / "head.log", environment, *starts))
        other = stack.enter_context(node(second, folder / "node.log", environment, *JOINS))
        yield Cluster((first, second), (head, other), environment, project, folder / "outputs")


SETTINGS = (
    *("rl.steps=14", "rl.checkpoints.every=1", "cluster.ready_timeout=120"),
    "learner.copies_on_other_nodes=true",
)


@pytest.fixture(scope="module")
def outlived(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run said whose driver was killed, and which then lost its second host and was given another.

    The last of this cluster as it was: that host goes without a word, with an engine, a rank and that one's copies.
    """
    runs, lost = Runs(cluster.outputs), cluster.nodes[1]
    job = cluster.submitted("two", *SETTINGS)
    wait_until(lambda: job.poll() is not None or len(runs.lines("two", "rl")) > 1, 600, "the second step of rl")
    actors = of_actors(cluster.processes())
    # Two engines with a process each, two ranks, a verifier: on both hosts.
    assert [sum(name in " ".join(a.cmdline()) for a in actors) for name in ("RolloutWorker", "Learner")] == [2, 2]
    owners = [sum(actor in psutil.Process(n.pid).children(recursive=True) for actor in actors) for n in cluster.nodes]
    assert min(owners) >= 3, owners
    mapped = mapped_by(actors)
    cluster.driver().send_signal(signal.SIGKILL)
    out, _ = job.communicate(timeout=180)
    assert job.returncode == 1, out[-4000:]
    steps = len(runs.lines("two", "rl"))
    assert 2 <= steps < 10

    assert left_behind(actors) == []
    assert left_in_shared_memory(runs.path("two"), mapped) == set()
    wait_until(lambda: cluster.reserved() == ([], 4.0, 4.0), 60, "everything that was reserved to be free")
    assert all(node.poll() is None for node in cluster.nodes)

    again = cluster.submitted("two", *SETTINGS)
    wait_until(lambda: again.poll() is not None or len(runs.lines("two", "rl")) > steps + 1, 600, "two more steps")
    actors = of_actors(psutil.Process(lost.pid).children(recursive=True))
    assert {name for name in ("RolloutWorker", "Learner") for a in actors if name in " ".join(a.cmdline())} == {
        "RolloutWorker",
        "Learner",
    }
    unplug(cluster.hosts[1])
    for process in (*psutil.Process(lost.pid).children(recursive=True), lost):
        process.kill()
    wait_until(
        lambda: again.poll() is not None or "a node of the cluster is gone" in runs.log("two"),
        180,
        "the loss to be noticed",
    )
    plug(cluster.hosts[1], ADDRESSES[0])
    log = tmp_path_factory.mktemp("another") / "node.log"
    with node(cluster.hosts[1], log, cluster.environment, *JOINS):
        out, _ = again.communicate(timeout=600)
        assert again.returncode == 0, out[-4000:]
        assert of_actors(psutil.Process(cluster.nodes[0].pid).children(recursive=True)) == []
    return out


def test_a_run_whose_driver_is_killed_leaves_nothing_on_two_hosts_and_the_same_command_continues(
    cluster: Cluster, outlived: str
) -> None:
    assert "continues after step" in outlived
    lines = [line["metrics"] for line in Runs(cluster.outputs).metrics("two", "rl")]
    assert [step["weight_version"] for step in lines] == list(range(1, 15))
    assert all(step["logprob_difference_max"] < 1e-4 for step in lines)


def test_a_run_waits_for_another_node_in_the_place_of_one_that_is_lost(outlived: str) -> None:
    assert "died: its node has died" in outlived
    assert "all ranks are restarted and go on from their copies of optimiser step" in outlived
    assert "go on from the last checkpoint" not in outlived
    assert "state-dump" not in outlived


def test_ranks_on_two_hosts_learn_what_they_learn_on_one(cluster: Cluster, outlived: str, tmp_path: Path) -> None:
    """The distilled weights, which depend on no sampling, are those of two ranks on one node."""
    one, both = Runs(tmp_path), Runs(cluster.outputs)
    for name in ("data", "model"):
        shutil.copytree(both.path("two") / name, one.path("one") / name)
    one("distill", "one", *SMALL, "learner.ranks=2", "cluster.learner_cpus=0.5", "cluster.rollout_cpus=0.5")
    there, here = (
        load_file(runs.path(name) / "distill" / "hf" / "model.safetensors")
        for runs, name in ((both, "two"), (one, "one"))
    )
    assert there.keys() == here.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=0, atol=1e-6, msg=name)
