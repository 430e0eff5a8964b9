"""Files and templates that are wrong in rarer ways: a clear message each, never a traceback from a library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import are_progress_bars_disabled
from transformers import AutoTokenizer

from pipelines.data.preference_file import load_pairs
from pipelines.data.prompts import encode, load_template
from pipelines.data.schema import DataError, Message, PreferencePair, read_pairs, validate, write_pairs

ROW: dict[str, Any] = {"prompt": "Say hi", "chosen": "hi", "rejected": "no"}
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        (DEEP.encode(), r"p\.jsonl, row 1: JSON that cannot be read: maximum recursion"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", r"row 1: JSON that cannot be read: Exceeds the limit"),
        (json.dumps(ROW).encode("utf-16"), r"row 1: not UTF-8 .*save the file as UTF-8"),
        (json.dumps({**ROW, "id": ["a"]}).encode(), r"row 1, field 'id': must be text or a whole number, not \['a'\]"),
        (json.dumps({**ROW, "id": " "}).encode(), r"row 1, field 'id': must be text or a whole number, not ' '"),
        (json.dumps({**ROW, "id": True}).encode(), r"row 1, field 'id': must be text or a whole number, not True"),
        (json.dumps({**ROW, "id": "a\ud800"}).encode(), r"row 1, field 'id': character 2 is half of a surrogate"),
        (json.dumps({**ROW, "metadata": []}).encode(), r"row 1, field 'metadata': must be an object, not list"),
        (json.dumps({**ROW, "chosen": None}).encode(), r"'chosen' is missing \(the row has: prompt, rejected\)"),
        (b'{"prompt": "q", "response_a": "x", "response_b": "y"}', r"row 1, field 'label': None is neither side"),
    ],
)
def test_lines(tmp_path: Path, line: bytes, pattern: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(line)
    with pytest.raises(DataError, match=pattern):
        load_pairs(tmp_path / "p.jsonl")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8-sig")
    assert [pair.chosen for pair in load_pairs(tmp_path / "p.jsonl")] == ["hi"]


def test_a_list_of_rows_is_not_json_lines(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([ROW]))
    with pytest.raises(DataError, match=r"unknown kind of file '\.json'; use \.jsonl or \.parquet"):
        load_pairs(tmp_path / "p.json")


def test_parquet_that_mixes_both_forms_of_a_row(tmp_path: Path) -> None:
    """A parquet row has every column of its file, with nothing in those it does not state."""
    labelled = {"prompt": "Say bye", "response_a": "go", "response_b": "bye", "label": "B"}
    pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(labelled), **ROW}, labelled]), tmp_path / "p.parquet")
    assert [(pair.chosen, pair.rejected) for pair in load_pairs(tmp_path / "p.parquet")] == [
        ("hi", "no"),
        ("bye", "go"),
    ]


def test_own_files_that_were_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rl.parquet"
    with pytest.raises(DataError, match=r"rl\.parquet is not there"):
        read_pairs(path)
    write_pairs([validate(ROW, place="row")], path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"rl\.parquet: cannot be read as parquet, write it again"):
        read_pairs(path)
    for metadata in ("[1", DEEP):
        pq.write_table(pa.Table.from_pylist([{**ROW, "metadata": metadata}]), path)
        with pytest.raises(DataError, match=r"rl\.parquet, row 1, field 'metadata': malformed JSON"):
            read_pairs(path)


def test_writing_pairs_keeps_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = are_progress_bars_disabled()
    write_pairs([PreferencePair("a", "s", "d", (Message("user", "q"),), "x", "y")], tmp_path / "p.parquet")
    assert capfd.readouterr() == ("", "")
    assert are_progress_bars_disabled() == before


@pytest.mark.parametrize("field", ["conversation!r", "conversation:>9", "conversation:{response_a}"])
def test_templates_take_fields_as_they_are(tmp_path: Path, field: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"user: '{{{field}}} {{response_a}} {{response_b}}'\n")
    with pytest.raises(DataError, match="`user`: must name exactly") as caught:
        load_template(str(path))
    assert field in str(caught.value)


@pytest.mark.slow
def test_a_chat_template_that_refuses_a_system_message(tiny_model_directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_directory)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    user = {"role": "user", "content": "hi"}
    assert tokenizer.decode(encode([user], tokenizer)) == "hi"
    with pytest.raises(
        DataError, match=r"refuses messages with the roles system, user: no system role; choose a prompt"
    ):
        encode([{"role": "system", "content": "x"}, user], tokenizer)
