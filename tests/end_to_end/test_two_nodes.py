"""A standing cluster of two hosts whose names resolve to loopback: engines, ranks and weights go from one to the other.

The hosts are network namespaces of this machine, each with a Ray node, and a token that both know.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from commands import ROOT, SMALL, Runs, wait_until
from two_hosts import ADDRESSES, NoNamespaces, on, two_hosts

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

# Nodes of two cores: an engine and a rank fill one, so each node has one of both.
SPREAD = ("rollout.workers=2", "cluster.rollout_cpus=1.2", "learner.ranks=2", "cluster.learner_cpus=0.8")
# A folder that cannot be made: weights that went through a file after all would stop the run.
NETWORK = ("cluster.weight_transfer=network", "cluster.weights_directory=/proc/no-weights-here")
BIN = Path(sys.executable).parent


@contextmanager
def node(host: str, log: Path, environment: dict[str, str], *arguments: str) -> Iterator[None]:
    """A Ray node on a host, up when this is entered; it ends its own processes when it is told to end."""
    command = [str(BIN / "ray"), "start", *arguments, "--num-cpus=2", "--object-store-memory=100000000", "--block"]
    with log.open("w") as output:
        process = subprocess.Popen(on(host, command), env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "block forever" in log.read_text() or process.poll() is not None, 120, f"a node on {host}")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)


def test_engines_and_ranks_on_two_hosts_agree(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = own | token | {"HF_HUB_OFFLINE": "1"}
    head = f"{ADDRESSES[0]}:6399"
    with ExitStack() as stack:
        try:
            first, second = stack.enter_context(two_hosts())
        except NoNamespaces as why:
            pytest.skip(str(why))
        starts = ("--head", f"--node-ip-address={ADDRESSES[0]}", "--port=6399", "--include-dashboard=false")
        stack.enter_context(node(first, tmp_path / "head.log", environment, *starts))
        joins = (f"--address={head}", f"--node-ip-address={ADDRESSES[1]}")
        stack.enter_context(node(second, tmp_path / "node.log", environment, *joins))
        command = [
            sys.executable,
            "-m",
            "pipelines.run",
            "run=two",
            f"output_root={tmp_path}",
            *SMALL,
            *SPREAD,
            *NETWORK,
        ]
        done = subprocess.run(
            on(first, [*command, f"cluster.address={head}", "rl.steps=2"]),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    steps = [line["metrics"] for line in Runs(tmp_path).metrics("two", "rl")]
    assert [step["weight_version"] for step in steps] == [1, 2]
    assert all(step["logprob_difference_max"] < 1e-4 for step in steps)
