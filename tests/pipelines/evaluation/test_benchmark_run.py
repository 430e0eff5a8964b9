"""What an evaluation of benchmarks refuses before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.learner.settings import ModelError
from pipelines.config.compose import load_config
from pipelines.evaluation.benchmark_run import judge_benchmarks
from pipelines.judgment.weights import weights_id


def test_a_model_that_is_not_there_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    model = tmp_path / "none" / "rl" / "hf"
    config = load_config(
        [f"output_root={tmp_path / 'outputs'}", f"evaluate.model={model}", "evaluate.benchmarks=builtin"]
    )
    with pytest.raises(ModelError, match="there is no such folder") as raised:
        judge_benchmarks(config)
    assert str(model) in str(raised.value)
    assert not (tmp_path / "outputs").exists()


def test_weights_of_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"cannot load a model from '{tmp_path / 'none'}'"):
        weights_id(str(tmp_path / "none"))
