"""The timeline of a run, by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.timeline import events

PARTS = {"time/wait": 0.5, "time/generate": 2.0, "time/verify": 0.25, "time/learn": 1.0, "time/publish": 0.25}


def line(step: int, end: float, **more: float) -> dict[str, Any]:
    metrics = PARTS | {"time/step": 4.0, "time/engine_busy": 3.0, "reward": 0.5} | more
    return {"stage": "rl", "step": step, "time": end, "metrics": metrics}


def test_parts_follow_one_another_and_engines_work_until_verification() -> None:
    # Step 1 from 100 to 104, with an evaluation until 106; step 2 from 107 to 111.
    found = list(events([line(1, 106.0, **{"time/evaluate": 2.0}), line(2, 111.0)]))
    loop = [(event["name"], event["ts"] / 1e6, event["dur"] / 1e6) for event in found if event["tid"] == 1]
    assert loop[:6] == [
        ("wait", 0.0, 0.5),
        ("generate", 0.5, 2.0),
        ("verify", 2.5, 0.25),
        ("learn", 2.75, 1.0),
        ("publish", 3.75, 0.25),
        ("evaluate", 4.0, 2.0),
    ]
    assert loop[6] == ("wait", 7.0, 0.5)
    engines = [(event["ts"] / 1e6, event["dur"] / 1e6) for event in found if event["tid"] == 2]
    # The first batch was begun before its step: the engines were ahead.
    assert engines == [(-0.5, 3.0), (6.5, 3.0)]


def test_learning_beside_generation_comes_before_the_rest_of_it() -> None:
    found = list(events([line(1, 104.0, **{"time/generate": 1.5, "time/learn": 1.5, "time/learn_early": 0.5})]))
    loop = [(event["name"], event["ts"] / 1e6, event["dur"] / 1e6) for event in found if event["tid"] == 1]
    assert loop[1:] == [
        ("generate", 0.5, 1.5),
        ("verify", 2.0, 0.25),
        ("learn_early", 2.25, 0.5),
        ("learn", 2.75, 1.0),
        ("publish", 3.75, 0.25),
    ]
    assert [(event["ts"] / 1e6, event["dur"] / 1e6) for event in found if event["tid"] == 2] == [(-0.5, 3.0)]


@pytest.mark.slow
def test_the_command_writes_a_trace_or_says_what_is_missing(tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.timeline", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "there is no" in run().stderr
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"stage": "distill", "step": 1, "time": 0, "metrics": {}}))
    missing = run()
    assert (missing.returncode, "has no step of rl" in missing.stderr) == (1, True)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1, 104.0)) + '\n{"stage": "r\n')
    damaged = run()
    assert (damaged.returncode, "Traceback" in damaged.stderr) == (1, False)
    assert damaged.stderr.startswith(f"error: {tmp_path}/metrics.jsonl, line 2 is no line of metrics")
    # A last line without its end is one that is being written.
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1, 104.0)) + '\n{"stage": "r')
    assert run().returncode == 0
    written = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {event["name"] for event in written if event["ph"] == "X"} == {
        "rollout batch",
        "wait",
        "generate",
        "verify",
        "learn",
        "publish",
    }
