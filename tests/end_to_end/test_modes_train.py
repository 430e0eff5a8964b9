"""A mix of all three modes is distilled and reinforced on the real parts, and the judge is asked in each."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT

from pipelines.config.compose import load_config
from pipelines.distill import distill
from pipelines.job.session import Session
from pipelines.prepare import prepare
from pipelines.rl import rl
from pipelines.stages.stage import open_run

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

SETTINGS = (
    *("data.modes.pairwise=1", "data.modes.pointwise=1", "data.modes.listwise=1"),
    *("data.distill_pairs=1200", "data.rl_pairs=60", "data.heldout_pairs=20", "distill.epochs=2"),
    *("rl.steps=2", "rl.evaluate_every=0", "rl.prompts_per_step=48", "rl.mini_batch_prompts=48"),
    *("rl.checkpoints.every=2", "learner.ranks=1", "tracking=off", "algorithm.samples=4", "run=modes"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run that trained a mix."""
    folder = tmp_path_factory.mktemp("modes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        config = load_config([*SETTINGS, f"output_root={folder}"])
        with open_run(config) as opened, Session(config, opened) as session:
            prepare(config, opened)
            distill(config, session)
            rl(config, session)
        yield folder / "modes"


def test_every_mode_is_learnt_and_rewarded(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps: list[dict[str, Any]] = [line["metrics"] for line in lines if line["stage"] == "rl"]
    assert [step["weight_version"] for step in steps] == [1, 2]
    for step in steps:
        assert all(math.isfinite(value) for value in step.values())
        assert step["grad_norm"] > 0
        assert (step["reward_failures"], step["generation_failures"]) == (0, 0)
        assert {f"accuracy/mode/{mode}" for mode in ("pairwise", "pointwise", "listwise")} <= set(step)
        assert step["parse_rate"] > 0.5
        assert step["reward"] == pytest.approx(step["reward/verdict"])
    summary = json.loads((run / "summary.json").read_text())
    for stage in ("distill", "rl"):
        for mode, figures in summary[f"{stage}_modes"].items():
            assert figures["n"] == 20, mode
            assert figures["parse_rate"] > 0.5, (stage, mode)


# As a user's own script: engines start processes, which begin by reading it again.
SCRIPT = """
import asyncio, json, sys
from pipelines.judgment.judge import Judge

if __name__ == "__main__":
    with Judge(sys.argv[1]) as judge:
        question, answers = "count b in e f f f b", ["two", "one", "five"]
        decision = judge.compare(question, "one", "two")
        assert asyncio.run(judge.acompare(question, "one", "two")).as_json() == decision.as_json()
        pairs = judge.rank(question, answers, method="all_pairs")
        rated = judge.score_all([(question, answer) for answer in answers])
        listed = judge.rank(question, answers, method="listwise")
        print("FOUND", json.dumps({
            "winner": decision.winner, "score": pairs.wins[1][0], "calls": [pairs.calls, listed.calls],
            "rankings": [pairs.ranking, listed.ranking], "ratings": [item.rating for item in rated],
            "failures": [sum(item.failures.values()) for item in rated],
        }))
"""


def test_the_judge_in_python_is_asked_in_every_mode(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "use.py"
    file.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(file), str(run / "rl" / "hf")],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("FOUND ")[1].splitlines()[0])
    # Response a of the comparison stands at 1, b at 0: the same judgment, the same score.
    assert {"a": 1.0, "b": 0.0, "tie": 0.5}[found["winner"]] == found["score"]
    assert found["calls"] == [3, 3]
    assert [sorted(ranking) for ranking in found["rankings"]] == [[0, 1, 2]] * 2
    assert all(rating is None or 1 <= rating <= 10 for rating in found["ratings"])
    assert sum(rating is not None for rating in found["ratings"]) + sum(found["failures"]) == 3
