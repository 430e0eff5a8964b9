"""What a run under faults left is compared with what the undisturbed run left: each difference fails the check."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.chaos import Undisturbed, disturbed, numbers, positive
from pipelines.faults.trial import Submission, Trial, rl_rows
from pipelines.runs.folder import RunDirectory


@dataclass(frozen=True, slots=True)
class Over(Submission):
    """A run that was over before."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", "pass"]


def write(root: Path, name: str, change: Callable[[dict[str, Any]], None] = lambda files: None) -> Path:
    """The folder of a run of two steps, with ``change`` made to what it holds."""
    files: dict[str, Any] = {
        "traces": {
            step: [{"step": step, "pair_id": f"rl-{step}", "order": "chosen_first", "sample": n} for n in range(4)]
            for step in (1, 2)
        },
        "metrics": [
            {
                "stage": "rl",
                "step": step,
                "time": 10.0 * step,
                "metrics": {"weight_version": step, "generation_failures": 0, "logprob_difference_max": 1e-5},
            }
            for step in (1, 2)
        ],
        "accuracy": 0.7,
    }
    change(files)
    with RunDirectory(root, name) as run:
        for step, rows in files["traces"].items():
            run.write_parquet(run.trace_file("rl", "rollouts", step), rows)
        run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in files["metrics"]))
        run.update_summary({"rl": {"accuracy": files["accuracy"]}})
        return run.path


def lose_a_trace(files: dict[str, Any]) -> None:
    files["traces"][2].pop()


def make_a_step_again(files: dict[str, Any]) -> None:
    files["metrics"].append(files["metrics"][-1])


def be_worse(files: dict[str, Any]) -> None:
    files["accuracy"] = 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda files: None, []),
        (lose_a_trace, ["1 prompts lost: rl-2/chosen_first (3 traces, not 4)"]),
        (make_a_step_again, ["metrics.jsonl should have the steps 1 to 2 once each, but has 1, 2, 2"]),
        (be_worse, ["held-out accuracy 0.500 is more than 0.1 from the undisturbed run's 0.700"]),
    ],
)
def test_differences(tmp_path: Path, change: Any, problems: list[str]) -> None:
    folder = write(tmp_path, "undisturbed")
    before = Undisturbed(folder, rl_rows(folder), 0.7)
    assert before.step_seconds == 10.0
    write(tmp_path, "struck", change)
    assert disturbed(Trial(Over("run", "struck", tmp_path, ()), seconds=60.0), before, margin=0.1) == problems


def test_seeds() -> None:
    assert numbers("3,14,15") == [3, 14, 15]


@pytest.mark.parametrize("text", ["0", "-3"])
def test_no_faults_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be at least 1, is {text}"):
        positive(text)
    assert positive("10") == 10
