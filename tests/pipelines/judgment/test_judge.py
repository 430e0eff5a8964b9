"""The judge from Python: whose settings it takes, and what is refused before an engine starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines.judge
import pipelines.rank
from actors.learner.settings import ModelError
from pipelines.config import Config
from pipelines.config.compose import load_config
from pipelines.judgment.in_process import settings_of
from pipelines.judgment.judge import Judge


def test_a_model_of_a_run_is_asked_as_in_its_run(tmp_path: Path) -> None:
    model = tmp_path / "run" / "rl" / "hf"
    model.mkdir(parents=True)
    assert settings_of(str(model)) == []
    (tmp_path / "run" / "config.yaml").write_text(
        "recipe_name: tiny\nmodel: {prompt: tiny, max_prompt_tokens: 96, max_response_tokens: 64, "
        "chat_template_kwargs: {enable_thinking: false}}\n"
        "algorithm: {verdict_mode: strict}\n"
    )
    assert settings_of(str(model)) == [
        "recipe=tiny",
        *("model.prompt=tiny", "model.max_prompt_tokens=96", "model.max_response_tokens=64"),
        "algorithm.verdict_mode=strict",
        "model.chat_template_kwargs.enable_thinking=false",
    ]
    assert settings_of(str(model.parent)) == settings_of("org/name") == []


def test_a_model_that_is_not_there_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a tokenizer"):
        Judge(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("name", "command"), [("judge", pipelines.judge.command), ("rank", pipelines.rank.command)])
def test_a_command_without_its_model_leaves_nothing(
    tmp_path: Path, name: str, command: Callable[[Config], None]
) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "answers" / "out.jsonl"
    file.write_text('{"prompt": "q", "response_a": "x", "response_b": "y", "responses": ["x", "y"]}\n')
    asked = {"input": file, "out": out, "model": tmp_path / "nothing"}
    config = load_config([f"{name}.{key}={value}" for key, value in asked.items()])
    with pytest.raises(ModelError, match="there is no such folder"):
        command(config)
    assert not out.parent.exists()
