"""Text that is no valid Unicode: every door refuses it by row and field, or leaves the row out and counts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipelines.benchmarks.benchmark import find
from pipelines.data.lint.overlap import benchmark_items
from pipelines.data.preference_file import read_pair_file
from pipelines.data.prompts import encode, load_template, render
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError, read_pairs, write_pairs
from pipelines.data.text import first_fault, unicode_fault
from pipelines.evaluation.log import COLUMNS, JudgmentLog

HALVES = ("\ud83d", "\udc00", "\ud83d\ud83d", "\ude00\ud83d")
PAIR = {"prompt": "Say hi", "chosen": "hi", "rejected": "no"}
PUBLISHED = {"context_messages": [{"role": "user", "content": "Which?"}], "winner": "model_a"}
MESSAGES = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hi"}]
LISTS = {"chosen": MESSAGES, "rejected": [MESSAGES[0], {"role": "assistant", "content": "no"}]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("half", HALVES)
def test_halves_of_surrogate_pairs_are_found(half: str) -> None:
    assert unicode_fault(f"ab{half}") == "character 3 is half of a surrogate pair"


@pytest.mark.parametrize("text", ["", "\0", "\ufffe\uffff", "\U0001f600", "\u202e\u2028", "e\u0301"])
def test_any_other_character_is_text(text: str) -> None:
    assert unicode_fault(text) is None


def test_the_field_is_named_by_its_path() -> None:
    assert first_fault({"a": [{"b": "x"}, {"b": "\ud800", "c": "\ud800"}]}) == (
        "a.2.b",
        "character 1 is half of a surrogate pair",
    )
    assert first_fault({"a": {"\ud800": 1}}) == ("'a.\\ud800'", "character 1 is half of a surrogate pair")
    assert first_fault([1, None, 2.5, True, {"x": "y"}]) is None


@pytest.mark.parametrize(
    ("good", "bad", "field"),
    [
        (PAIR, {**PAIR, "prompt": "a\ud83d"}, "prompt"),
        (PAIR, {**PAIR, "chosen": "\udc00"}, "chosen"),
        (PAIR, {**PAIR, "metadata": {"note": ["x", "\ud83d"]}}, "metadata.note.2"),
        (PAIR, {**PAIR, "source": "\ud83d"}, "source"),
        (LISTS, {**LISTS, "chosen": [{"role": "user", "content": "\ud83d"}, MESSAGES[1]]}, "chosen.1.content"),
        (
            PUBLISHED,
            {**PUBLISHED, "context_messages": [{"role": "user", "content": "\ud83d"}]},
            "context_messages.1.content",
        ),
        (PUBLISHED, {**PUBLISHED, "winner": "\ud83d"}, "winner"),
    ],
)
def test_rows_of_pairs(tmp_path: Path, good: Any, bad: Any, field: str) -> None:
    path = write(tmp_path / "set.jsonl", good, bad)
    with pytest.raises(DataError, match=rf"set\.jsonl, row 2, field '{field}': character \d is half of a surrogate"):
        read_pair_file(path)
    read = read_pair_file(path, on_bad_row="skip")
    assert (len(read.pairs), len(read.bad)) == (1, 1)
    assert field in read.bad[0]


def test_metadata_that_are_json_in_parquet(tmp_path: Path) -> None:
    rows = [{**PAIR, "metadata": "{}"}, {**PAIR, "metadata": '{"note": "\\ud83d"}'}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    with pytest.raises(DataError, match=r"set\.parquet, row 2, field 'metadata', field 'note': character 1"):
        read_pair_file(tmp_path / "set.parquet")
    assert len(read_pair_file(tmp_path / "set.parquet", on_bad_row="skip").pairs) == 1


def test_benchmark_rows(tmp_path: Path) -> None:
    row = {"id": 1, "subset": "donotanswer", "prompt": "q", "chosen": "a\ud83d", "rejected": "b"}
    with pytest.raises(DataError, match=r"row 1, field 'chosen': character 2 is half"):
        find("reward_bench").load(str(write(tmp_path / "b.jsonl", row)))
    (tmp_path / "b.json").write_text(json.dumps([{**row, "chosen": "a"}, row]))
    with pytest.raises(DataError, match=r"b\.json, field '2\.chosen': character 2 is half"):
        find("reward_bench").load(str(tmp_path / "b.json"))
    with pytest.raises(DataError, match=r"row 1, field 'prompt'"):
        benchmark_items([str(write(tmp_path / "c.jsonl", {"prompt": "\ud83d"}))])


def test_judgments(tmp_path: Path) -> None:
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "vote": 0}
    path = tmp_path / "judgments.jsonl"
    with JudgmentLog(path) as log, pytest.raises(DataError, match="field 'text': character 1 is half"):
        log.append([{**row, "text": "\ud83d"}])
    assert path.read_bytes() == b""
    write(path, {**row, "text": "\ud83d"})
    with pytest.raises(DataError, match=r"judgments\.jsonl, row 1, field 'text'"):
        JudgmentLog(path)


@pytest.mark.parametrize("part", ["user", "system"])
def test_prompt_templates(tmp_path: Path, part: str) -> None:
    path = tmp_path / "mine.yaml"
    parts = {"system": "s", "user": "{conversation} {response_a} {response_b}"}
    path.write_text(json.dumps({**parts, part: parts[part] + "\ud83d"}))
    with pytest.raises(DataError, match=rf"mine\.yaml, `{part}`: character \d+ is half of a surrogate pair"):
        load_template(str(path))


def test_a_nul_is_text_to_the_last_token(tmp_path: Path, tiny_model_directory: Path) -> None:
    path = write(tmp_path / "set.jsonl", {**PAIR, "chosen": "a\0b"})
    write_pairs(read_pair_file(path).pairs, tmp_path / "set.parquet")
    (pair,) = read_pairs(tmp_path / "set.parquet")
    assert pair.chosen == "a\0b"
    messages = render(pair, "chosen_first", load_template("tiny"))
    assert "a\0b" in messages[-1]["content"]
    assert encode(messages, AutoTokenizer.from_pretrained(tiny_model_directory))


@pytest.mark.parametrize("row", [b'{"prompt": "q", "prompt": "r"}', b'{"prompt": [{"role": "user", "role": "x"}]}'])
def test_a_key_that_an_object_has_twice(tmp_path: Path, row: bytes) -> None:
    (tmp_path / "set.jsonl").write_bytes(row)
    with pytest.raises(DataError, match=r"row 1: JSON that cannot be read: an object has the key '\w+' twice"):
        list(rows_of(tmp_path / "set.jsonl"))
