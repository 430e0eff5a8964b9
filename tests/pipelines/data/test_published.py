"""The published RM-R1 form: the prompt is used as it is, in the order it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data.preference_file import load_pairs
from pipelines.data.prompts import load_template, orders_of, render
from pipelines.data.published import is_hub_name
from pipelines.data.schema import DataError


def row(winner: str, question: str = "Which?") -> dict[str, object]:
    return {
        "context_messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": question}],
        "winner": winner,
    }


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


def test_rows_keep_their_prompt_and_their_order(tmp_path: Path) -> None:
    pairs = load_pairs(write(tmp_path / "set.jsonl", row("model_a"), row("model_b")))
    ordered = orders_of(pairs, "both", 0)
    assert [order for _, order in ordered] == ["chosen_first", "chosen_second"]
    template = load_template("chain_of_rubrics")
    assert [render(pair, order, template) for pair, order in ordered] == [row("model_a")["context_messages"]] * 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("model_c"), "row 1, field 'winner': 'model_c' is neither side"),
        ({"context_messages": [], "winner": "model_a"}, "row 1, field 'context_messages': must be a list"),
        (
            {"context_messages": [{"role": "user"}], "winner": "model_a"},
            "message 1: needs text fields 'role'",
        ),
        (
            {"context_messages": [{"role": "assistant", "content": "x"}], "winner": "model_a"},
            "the last message must be the user's",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_pairs(write(tmp_path / "set.jsonl", bad))
    assert message in str(caught.value)


def test_hub_names_are_told_from_paths() -> None:
    assert is_hub_name("gaotang/RM-R1-after-Distill-RLVR")
    for path in ("/data/x", "./a/b", "a/b.jsonl", "pairs.parquet", "a/b/c", "../x/y"):
        assert not is_hub_name(path)
