"""Stopped in the middle and run again: the history is that of a run that never was, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from commands import SMALL, Runs, wait_until
from leftovers import left_behind, left_in_shared_memory, of_actors

from actors.shared_memory import mapped_by
from pipelines.data.order import batch_of

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]


SETTINGS = (*SMALL, "learner.ranks=1", "rl.steps=8", "rl.checkpoints.every=50")
"""No schedule saves anything."""


def trained_prompts(run: Path) -> dict[int, list[str]]:
    """Prompts by RL step, from the traces that were kept."""
    history: dict[int, list[str]] = {}
    for file in sorted(run.glob("traces/rl-rollouts-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["sample"] == 0:
                history.setdefault(row["step"], []).append(f"{row['pair_id']}/{row['order']}")
    return history


def test_a_run_that_was_stopped_misses_no_prompt_and_has_none_twice(runs: Runs) -> None:
    """Stopped by SIGTERM, which saves its step, and continued. That a killed one does is shown in test_chaos.py."""
    process = runs.start("run", "stopped", *SETTINGS)
    stopped_at = stopped(runs, process, "stopped", "rl", signal.SIGTERM)
    output = runs("run", "stopped", *SETTINGS)
    assert f"continues after step {stopped_at}" in output
    history = trained_prompts(runs.path("stopped"))
    assert sorted(history) == list(range(1, 9))
    expected = {
        step + 1: sorted(
            f"rl-{item}/{order}" for item in batch_of(400, 0, 4, step, 1) for order in ("chosen_first", "chosen_second")
        )
        for step in range(8)
    }
    assert {step: sorted(prompts) for step, prompts in history.items()} == expected
    assert max(Counter(prompt for prompts in history.values() for prompt in prompts).values()) == 1
    lines = runs.metrics("stopped", "rl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["metrics"]["weight_version"] for line in lines] == list(range(1, 9))
    assert {"before", "distill", "rl"} <= set(runs.summary("stopped"))


def stopped(
    runs: Runs,
    process: subprocess.Popen[str],
    name: str,
    stage: str,
    number: signal.Signals,
    its: Callable[[], list[psutil.Process]] | None = None,
) -> int:
    """Stop a run by a signal after its second step of a stage: it says so, saves its step, and leaves nothing.

    ``its`` are the processes that have to end with it; by default all that it has started. Returns the step.
    """
    wait_until(
        lambda: process.poll() is not None or bool(runs.lines(name, stage)[1:]), 300, f"the second step of {stage}"
    )
    started = its() if its else psutil.Process(process.pid).children(recursive=True)
    assert of_actors(started)
    mapped = mapped_by(started)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, out + error
    steps = len(runs.lines(name, stage))
    assert f"Run the same command again to continue {stage} after step {steps}:" in error
    assert [int(path.name[-6:]) for path in runs.path(name).glob(f"checkpoints/{stage}/step-*")] == [steps]
    assert left_behind(started) == []
    assert left_in_shared_memory(runs.path(name), mapped) == set()
    return steps


def test_finished_stage_says_so_and_does_nothing(runs: Runs) -> None:
    stamp = (runs.path("stopped") / "rl" / "hf" / "model.safetensors").stat().st_mtime_ns
    assert "is finished already; overwrite=true starts it over" in runs("rl", "stopped", *SETTINGS)
    assert (runs.path("stopped") / "rl" / "hf" / "model.safetensors").stat().st_mtime_ns == stamp


def test_finished_stage_refuses_other_settings(runs: Runs) -> None:
    output = runs("rl", "stopped", *SETTINGS, "rl.optimizer.learning_rate=1e-3", status=1)
    assert "rl.optimizer.learning_rate: was 0.0003, is 0.001" in output
    assert "overwrite=true" in output


def test_damaged_checkpoint_is_named(runs: Runs) -> None:
    """The stage is unfinished again, its newest checkpoint lacks a file: nothing is trained on half a state."""
    run = runs.path("stopped")
    (run / "stages" / "rl.json").unlink()
    newest = sorted(run.glob("checkpoints/rl/step-*"))[-1]
    victim = next(newest.rglob("*.distcp"))
    victim.unlink()
    output = runs("rl", "stopped", *SETTINGS, status=1)
    assert victim.name in output
    assert newest.name in output


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        servers = [opened.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


@pytest.fixture
def standing() -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """The head of a Ray cluster that was there before, and the environment that joins it."""
    port, client_port = free_ports(2)
    joined = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "disabled"}
    # Short, because sockets lie in it.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="rrm-", ignore_cleanup_errors=True) as folder:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=4"]
        command += [f"--port={port}", f"--ray-client-server-port={client_port}", f"--temp-dir={folder}"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        with (Path(folder) / "head.log").open("wb") as log:
            head = subprocess.Popen(command, env=os.environ | joined, stdout=log, stderr=log)
        try:
            wait_until(lambda: bool(list(Path(folder).glob("session_latest/sockets/raylet*"))), 60, "a Ray cluster")
            yield head, joined
        finally:
            head.terminate()
            head.wait(timeout=60)


def test_on_a_standing_cluster_an_interrupted_distillation_saves_its_step_and_ends_its_actors_and_nothing_else(
    runs: Runs, standing: tuple[subprocess.Popen[bytes], dict[str, str]]
) -> None:
    head, joined = standing
    overrides = (*SMALL, "distill.epochs=40", "distill.checkpoints.every=500", "learner.ranks=1")
    for name in ("data", "model"):
        shutil.copytree(runs.path("stopped") / name, runs.path("guest") / name)
    process = runs.start("distill", "guest", *overrides, **joined)
    family = psutil.Process(head.pid)
    stopped(runs, process, "guest", "distill", signal.SIGINT, lambda: of_actors(family.children(recursive=True)))
    assert head.poll() is None
