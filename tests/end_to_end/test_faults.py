"""A run whose processes are killed one after another ends as one that was left alone: every prompt trained on once."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from commands import SMALL, Runs, wait_until

from actors.processes import is_engine_core, titled
from pipelines.data.order import batch_of

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

TWO = ("learner.ranks=2", "cluster.learner_cpus=0.4", "cluster.rollout_cpus=0.5")


def trained_prompts(run: Path) -> dict[int, Counter[str]]:
    """Prompts by RL step, from the traces that were kept."""
    history: dict[int, Counter[str]] = {}
    for file in sorted(run.glob("traces/rl-rollouts-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            history.setdefault(row["step"], Counter())[f"{row['pair_id']}/{row['order']}"] += 1
    return history


def find(process: subprocess.Popen[str], is_it: Callable[[psutil.Process], bool]) -> psutil.Process:
    """A process of the run; of several the first."""

    def found() -> list[psutil.Process]:
        every = psutil.Process(process.pid).children(recursive=True)
        return [each for each in every if is_it(each) and each.status() != psutil.STATUS_ZOMBIE]

    wait_until(lambda: bool(found()), 300, "the process")
    return found()[0]


def after_step(runs: Runs, process: subprocess.Popen[str], name: str, step: int) -> Callable[[], bool]:
    return lambda: process.poll() is not None or len(runs.lines(name, "rl")) >= step


def test_killed_engine_verifier_and_learner_come_back_and_every_prompt_is_trained_on_once(runs: Runs) -> None:
    name = "faults"
    process = runs.start("run", name, *SMALL, *TWO, "rl.steps=8")
    everything = psutil.Process(process.pid)
    seen: set[psutil.Process] = set()
    for step, victim in ((1, is_engine_core), (3, titled("ray::Learner")), (5, titled("ray::RewardVerifier"))):
        wait_until(after_step(runs, process, name, step), 600, f"RL step {step}")
        assert process.poll() is None, process.communicate()
        seen |= set(everything.children(recursive=True))
        os.kill(find(process, victim).pid, signal.SIGKILL)
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, out[-3000:] + error[-3000:]
    expected = {
        step + 1: Counter(
            {
                f"rl-{item}/{order}": 4
                for item in batch_of(400, 0, 4, step, 1)
                for order in ("chosen_first", "chosen_second")
            }
        )
        for step in range(8)
    }
    assert trained_prompts(runs.path(name)) == expected
    lines = runs.metrics(name, "rl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["metrics"]["weight_version"] for line in lines] == list(range(1, 9))
    last = lines[-1]["metrics"]
    assert [last[f"restarts/{kind}"] for kind in ("engine", "learner", "verifier")] == [1, 1, 1]
    assert all(line["metrics"]["generation_failures"] == 0 for line in lines)
    assert all(line["metrics"]["logprob_difference_max"] < 1e-4 for line in lines), "engines hold the learners' weights"
    said = " ".join((out + error).split())
    for who in ("rollout worker 0", "learner rank", "the reward verifier"):
        assert f"{who} " in said
    assert said.count("is back after") == 3
    assert "all ranks are restarted and go on from their copies of optimiser step" in said
    assert "continues after step" not in said, "no step is made again, and nothing generated twice"
    assert psutil.wait_procs(seen, timeout=30)[1] == []
