"""Runs pipelines as a user does, as commands of their own, and ends whatever a failed test left running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Small enough for two minutes on two cores; the parts are the real ones.
SMALL = (
    "data.distill_pairs=200",
    "data.rl_pairs=400",
    "data.heldout_pairs=20",
    "distill.epochs=1",
    "rl.steps=6",
    "rl.evaluate_every=0",
    "rl.prompts_per_step=8",
    "rl.mini_batch_prompts=8",
    "rl.checkpoints.every=2",
    "rl.checkpoints.keep_last=2",
    "algorithm.samples=4",
    "algorithm.equal_reward_groups=keep",
    "tracking=off",
)


def without_ray() -> dict[str, str]:
    """This process's environment without what it says of Ray, but for what tests/conftest.py does."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name == "RAY_worker_niceness"
    }


class Runs:
    """Pipelines run as commands, with one output folder."""

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, stage: str, run: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
        """Start a stage in a process group of its own."""
        command = [sys.executable, "-m", f"pipelines.{stage}", f"run={run}", f"output_root={self.outputs}", *overrides]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "150", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def __call__(
        self, stage: str, run: str, *overrides: str, status: int = 0, timeout: float = 600, **environment: str
    ) -> str:
        """Run a stage to its end; returns what it printed. Fails if it exits with another status."""
        process = self.start(stage, run, *overrides, **environment)
        out, error = process.communicate(timeout=timeout)
        if process.returncode != status:
            ended = f"{stage} ended with {process.returncode}:\n{out[-4000:]}\n{error[-4000:]}"
            pytest.fail(ended + ends_of_logs(self.path(run) / "logs"))
        return out + error

    def path(self, run: str) -> Path:
        """Folder of a run."""
        return self.outputs / run

    def summary(self, run: str) -> dict[str, Any]:
        """Contents of a run's summary.json."""
        return json.loads((self.path(run) / "summary.json").read_text())

    def metrics(self, run: str, stage: str) -> list[dict[str, Any]]:
        """A stage's lines of metrics.jsonl, in order."""
        lines = [json.loads(line) for line in (self.path(run) / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if line["stage"] == stage]

    def lines(self, run: str, stage: str) -> list[dict[str, Any]]:
        """As :meth:`metrics`, while the stage runs: none before the file is there, and no line that is half written."""
        file = self.path(run) / "metrics.jsonl"
        text = file.read_text() if file.exists() else ""
        whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in whole if line["stage"] == stage]

    def log(self, run: str) -> str:
        """The driver's log of a run so far."""
        file = self.path(run) / "logs" / "driver.log"
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        """End the process groups that are still there."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)


def ends_of_logs(folder: Path) -> str:
    """What the run's processes said last: the folder is gone when a failure is read."""
    return "".join(f"\n{file.name} ends:\n{file.read_text()[-6000:]}" for file in sorted(folder.glob("*.log")))


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition that another process brings about; polling is all there is to watch a file grow."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)
