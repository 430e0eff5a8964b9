"""Rows that cannot be used: each names file and row, in both kinds of file, and can be skipped and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.preference_file import read_pair_file
from pipelines.data.schema import MAX_CHARACTERS, DataError

GOOD: dict[str, Any] = {"prompt": "Say hi", "chosen": "hi", "rejected": "no"}
BAD = {
    "wrong type": ({**GOOD, "chosen": 3}, "'chosen': must be text, not int"),
    "missing column": ({"prompt": "Say hi", "chosen": "hi"}, "field 'rejected' is missing"),
    "no user turn": (
        {**GOOD, "prompt": [{"role": "assistant", "content": "x"}]},
        "the last message must be the user's, not the assistant's",
    ),
    "equal": ({**GOOD, "rejected": "hi"}, "both responses are equal"),
    "ten megabytes": ({**GOOD, "chosen": "a" * 10_000_000}, "'chosen': 10,000,000 characters, and at most 1,000,000"),
    "unknown label": ({"prompt": "q", "response_a": "x", "response_b": "y", "label": "C"}, "'label': 'C' is neither"),
}


@pytest.mark.parametrize("name", BAD)
def test_in_json_lines(tmp_path: Path, name: str) -> None:
    row, pattern = BAD[name]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in ({**GOOD, "id": "a"}, row, {**GOOD, "id": "b"})))
    with pytest.raises(DataError, match=rf"set\.jsonl, row 2.*{pattern}"):
        read_pair_file(path)
    read = read_pair_file(path, on_bad_row="skip")
    assert [pair.id for pair in read.pairs] == ["a", "b"]
    assert len(read.bad) == 1
    assert "row 2" in read.bad[0]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    lines = tmp_path / "set.jsonl"
    lines.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff", "chosen": "x", "rejected": "y"}\n')
    # pyarrow takes the column for text without looking at its bytes, as a careless writer would.
    texts = pa.array([b"hi", b"\xff\xfe"]).view(pa.string())
    table = tmp_path / "set.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"], "chosen": texts, "rejected": ["x", "y"]}), table)
    for path in (lines, table):
        with pytest.raises(DataError, match=rf"{path.name}, row 2: not UTF-8"):
            read_pair_file(path)
        read = read_pair_file(path, on_bad_row="skip")
        assert (len(read.pairs), len(read.bad)) == (1, 1)


def test_a_long_text_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({**GOOD, "chosen": "a" * MAX_CHARACTERS}))
    assert len(read_pair_file(path).pairs[0].chosen) == MAX_CHARACTERS


def test_a_file_of_bad_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"prompt": 1}\nnonsense\n')
    with pytest.raises(DataError, match=r"set\.jsonl holds no pairs: 2 bad rows were skipped, the first: .*row"):
        read_pair_file(path, on_bad_row="skip")
