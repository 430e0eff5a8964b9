"""Killed in the middle of RL and run again: the history is that of a run that was never killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import SMALL, Runs, wait_until

from pipelines.data.order import batch_of

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]


def trained_prompts(run: Path) -> dict[int, list[str]]:
    """Prompts by RL step, from the traces that were kept."""
    history: dict[int, list[str]] = {}
    for file in sorted(run.glob("traces/rl-rollouts-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            if row["sample"] == 0:
                history.setdefault(row["step"], []).append(f"{row['pair_id']}/{row['order']}")
    return history


def test_killed_run_continues_and_no_prompt_is_missing_or_twice(runs: Runs) -> None:
    run = runs.path("killed")
    process = runs.start("run", "killed", *SMALL)
    wait_until(
        lambda: process.poll() is not None or bool(list(run.glob("traces/rl-rollouts-000003.parquet"))),
        300,
        "the third RL step",
    )
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    before = list(run.glob("checkpoints/rl/step-*"))
    assert before, "a checkpoint was written before the kill"

    output = runs("run", "killed", *SMALL)
    assert "continues after step" in output
    history = trained_prompts(run)
    assert sorted(history) == [1, 2, 3, 4, 5, 6]
    expected = {
        step + 1: sorted(
            f"rl-{item}/{order}" for item in batch_of(400, 0, 4, step, 1) for order in ("chosen_first", "chosen_second")
        )
        for step in range(6)
    }
    assert {step: sorted(prompts) for step, prompts in history.items()} == expected
    assert max(Counter(prompt for prompts in history.values() for prompt in prompts).values()) == 1
    lines = runs.metrics("killed", "rl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["metrics"]["weight_version"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"before", "distill", "rl"} <= set(runs.summary("killed"))


def test_finished_stage_says_so_and_does_nothing(runs: Runs) -> None:
    stamp = (runs.path("killed") / "rl" / "hf" / "model.safetensors").stat().st_mtime_ns
    assert "is finished already; overwrite=true starts it over" in runs("rl", "killed", *SMALL)
    assert (runs.path("killed") / "rl" / "hf" / "model.safetensors").stat().st_mtime_ns == stamp


def test_finished_stage_refuses_other_settings(runs: Runs) -> None:
    output = runs("rl", "killed", *SMALL, "rl.optimizer.learning_rate=1e-3", status=1)
    assert "rl.optimizer.learning_rate: was 0.0003, is 0.001" in output
    assert "overwrite=true" in output


def test_damaged_checkpoint_is_named(runs: Runs) -> None:
    """The stage is unfinished again, its newest checkpoint lacks a file: nothing is trained on half a state."""
    run = runs.path("killed")
    (run / "stages" / "rl.json").unlink()
    newest = sorted(run.glob("checkpoints/rl/step-*"))[-1]
    victim = next(newest.rglob("*.distcp"))
    victim.unlink()
    output = runs("rl", "killed", *SMALL, status=1)
    assert victim.name in output
    assert newest.name in output


def test_interrupted_run_says_how_to_continue(runs: Runs) -> None:
    process = runs.start("run", "interrupted", *SMALL)
    wait_until(
        lambda: process.poll() is not None or (runs.path("interrupted") / "metrics.jsonl").exists(), 300, "distillation"
    )
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, out + error
    assert "Run the same command again to continue" in error
