"""PPE's human preferences: published rows, ties left out, and the official accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmarks.benchmark import Score, find, score
from pipelines.data.schema import DataError

ROW = {"question_id": "q", "model_a": "x", "model_b": "y", "prompt": "p", "response_1": "one", "response_2": "two"}


def load(folder: Path, *rows: dict[str, Any]) -> list[Any]:
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(ROW | {"language": "English"} | row) + "\n" for row in rows))
    return find("ppe_preference").load(str(path))


def test_the_winner_is_the_better_response_and_ties_are_left_out(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        {"winner": "model_a", "hard_prompt": True, "easy_prompt": False},
        {"winner": "tie"},
        {"winner": "tie (bothbad)"},
        {"winner": "model_b", "language": "Chinese", "hard_prompt": False, "easy_prompt": True},
    )
    assert [(item.pair.chosen, item.pair.rejected, item.subset, item.category) for item in loaded] == [
        ("one", "two", "English", "hard"),
        ("two", "one", "Chinese", "easy"),
    ]
    # One question twice is two votes.
    assert [item.pair.id for item in loaded] == ["q/1", "q/4"]


def test_another_winner_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl, row 1, field 'winner': 'A' is none of model_a, model_b, tie"):
        load(tmp_path, {"winner": "A"})


def test_accuracy_is_over_all_votes_whatever_their_language() -> None:
    outcomes = [("English", 1), ("English", 1), ("English", 0), ("English", 1), ("Chinese", 0)]
    scores = [Score(language, str(index), value) for index, (language, value) in enumerate(outcomes)]
    assert score(find("ppe_preference"), scores) == {"accuracy": pytest.approx(3 / 5, abs=1e-12)}
