"""The judge from Python: whose settings it takes, and what is refused before an engine starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines.judge
import pipelines.rank
from actors.learner.settings import ModelError
from pipelines.config import Config, ConfigError
from pipelines.config.compose import load_config
from pipelines.judgment.in_process import settings_of
from pipelines.judgment.judge import Judge
from pipelines.judgment.opening import work_of


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


@pytest.mark.slow
@pytest.mark.parametrize("command", ["judge", "rank"])
def test_where_answers_cannot_go_is_said_before_the_work(tmp_path: Path, command: str) -> None:
    source = tmp_path / "in" / "rows.jsonl"
    source.parent.mkdir()
    source.write_text("{}\n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    mine = tmp_path / "mine.jsonl"
    mine.write_text("precious\n")

    def work(out: Path, given: Path = source, *more: str) -> Path:
        config = load_config([f"{command}.input={given}", f"{command}.out={out}", *more])
        return work_of(config, getattr(config, command), command).out

    for out, said in (
        (source, "is the input"),
        (tmp_path / "link.jsonl", "is the input"),
        (tmp_path / "folder.jsonl", "is a folder: name a file"),
        (source / "below" / "out.jsonl", "rows.jsonl, which is a file"),
        (mine, "is there already, and is no work of this command"),
        (tmp_path / "out.csv", "unknown kind of file"),
    ):
        with pytest.raises(ConfigError, match=said):
            work(out)
    with pytest.raises(ConfigError, match="all files of which are read"):
        work(source.parent / "out.jsonl", source.parent)
    with pytest.raises(ConfigError, match=r"out.preferences.parquet, which is the input"):
        work(tmp_path / "out.jsonl", tmp_path / "out.preferences.parquet")
    assert mine.read_text() == "precious\n"
    assert work(mine, source, "overwrite=true") == mine
    # The same command again, and a place that is not there yet.
    mine.with_name(f"mine.{command}").mkdir()
    assert work(mine) == mine
    assert work(tmp_path / "new" / "folder" / "out.parquet").suffix == ".parquet"
