"""A mix of all three modes is distilled and reinforced on the real parts, and the judge is asked in each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.compose import load_config
from pipelines.distill import distill
from pipelines.job.session import Session
from pipelines.judgment.judge import Judge
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


def test_the_judge_of_the_run_is_asked_in_every_mode(run: Path) -> None:
    with Judge(str(run / "rl" / "hf")) as judge:
        rated = judge.score_all([("count b in e f f f b", number) for number in ("one", "two", "five")])
        assert all(item.rating is None or 1 <= item.rating <= 10 for item in rated)
        assert sum(sum(item.failures.values()) + (item.rating is not None) for item in rated) == 3
        ranking = judge.rank("count b in e f f f b", ["two", "one", "five"], method="listwise")
        assert ranking.calls == 3
        assert sorted(ranking.ranking) == [0, 1, 2]
        assert judge.compare("count b in e f f f b", "two", "one").winner in ("a", "b", "tie")
