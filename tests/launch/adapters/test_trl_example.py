"""TRL's own trainer, a few steps of it, rewarded over HTTP by a judge whose engines are scripted."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES
from scripted_engines import ScriptedEngines, longer
from served import app_of, listening

from launch.adapters.trl_example import GENERATIONS, train
from pipelines.data.schema import write_pairs
from pipelines.data.tiny_model import build_tiny_model
from pipelines.data.tiny_tasks import generate_items
from pipelines.judgment.judge import Judge

pytestmark = pytest.mark.slow


def test_a_policy_is_trained_by_the_rewards_of_its_groups(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL comes with the extra `bench`")
    pairs = generate_items(0, {"rl": 32})["rl"]
    (tmp_path / "data").mkdir()
    write_pairs(pairs, tmp_path / "data" / "rl.parquet")
    words = [" ".join((pair.prompt[-1].content, pair.chosen, pair.rejected)) for pair in pairs]
    build_tiny_model(tmp_path / "model", words * 20, seed=0)
    with listening(app_of(ScriptedEngines(FAMILIES["qwen2_5"](), longer))) as address, Judge(address) as judge:
        steps = train(judge, tmp_path, 2)
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["judge/unjudged"] == 0
        assert 0 < step["judge/comparisons"] <= 8 * GENERATIONS * (GENERATIONS - 1) / 2
        # Without empty completions the mean of every group is a half; they have nothing to win.
        assert 0.3 < step["reward"] < 0.7
        assert step["reward_std"] > 0
        assert step["grad_norm"] > 0
