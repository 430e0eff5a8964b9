"""PPE's checked answers: published rows, the pairs they name, and the official average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.benchmarks.benchmark import Score, find, score
from pipelines.data.schema import DataError

ROW = {"question_id": "q", "prompt": "p", "model_name": "m", "scores": [True, False, False],
       **{f"response_{number}": f"answer {number}" for number in (1, 2, 3)}}  # fmt: skip


def load(folder: Path, name: str, **fields: Any) -> list[Any]:
    (folder / name).write_text(json.dumps(ROW | fields) + "\n")
    return find("ppe_correctness").load(str(folder))


def test_pairs_are_counted_from_nought_and_the_right_one_is_better(tmp_path: Path) -> None:
    loaded = load(tmp_path, "mmlu_pro_best_of_k.jsonl", sampled_conflict_pairs=[[0, 2], [1, 0], [1, 0]])
    assert [(item.pair.chosen, item.pair.rejected, item.subset, item.item) for item in loaded] == [
        ("answer 1", "answer 3", "MMLU-Pro", "MMLU-Pro/q"),
        *[("answer 1", "answer 2", "MMLU-Pro", "MMLU-Pro/q")] * 2,
    ]
    assert len({item.pair.id for item in loaded}) == 3


@pytest.mark.parametrize(
    ("file", "subset"), [("PPE-GPQA-Best-of-K.jsonl", "GPQA"), ("MATH.jsonl", "MATH"), ("mbpp_plus.jsonl", "MBPP-Plus")]
)
def test_a_file_is_named_after_its_set(tmp_path: Path, file: str, subset: str) -> None:
    assert [item.subset for item in load(tmp_path, file, sampled_conflict_pairs=[[0, 1]])] == [subset]


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("train.jsonl", [[0, 1]], r"row 1: its file's name tells none of MMLU-Pro, MATH"),
        ("gpqa.jsonl", [[1, 2]], r"row 1, field 'sampled_conflict_pairs': responses 1 and 2 score the same"),
        ("gpqa.jsonl", [[0, 3]], r"\[0, 3\] is no pair of positions among 3 responses"),
        ("gpqa.jsonl", [[True, 1]], r"\[True, 1\] is no pair"),
        ("gpqa.jsonl", [7], r"7 is no pair"),
        ("gpqa.jsonl", {"a": 1}, r"must be lists"),
    ],
)
def test_what_names_no_pair_is_refused(tmp_path: Path, name: str, pairs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, name, sampled_conflict_pairs=pairs)


def test_sets_count_alike_whatever_their_size() -> None:
    outcomes = [("GPQA", "a", 1), ("GPQA", "a", 0), ("GPQA", "b", 1), ("GPQA", "b", 1), ("MATH", "c", 0)]
    figures = score(find("ppe_correctness"), [Score(subset, item, value) for subset, item, value in outcomes])
    assert figures == {"subsets": {"MATH": 0.0, "GPQA": 0.75}, "average": 0.375}
