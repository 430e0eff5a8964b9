"""A user's file of pairs: both kinds, both forms of a row, every way it can be wrong, and the split by prompt."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.preference_file import load_pairs, split_by_prompt
from pipelines.data.schema import DataError, Message, PreferencePair, prompt_key, write_pairs

GOOD = {"id": "a", "prompt": [{"role": "user", "content": "Say hi"}], "chosen": "hi", "rejected": "no"}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    return path


def test_jsonl(tmp_path: Path) -> None:
    second = {"prompt": "Say bye", "response_a": "go", "response_b": "bye", "label": "B", "domain": "Chat"}
    path = write_lines(tmp_path / "p.jsonl", GOOD, b"", second, b"   ")
    first, other = load_pairs(path)
    assert first == PreferencePair("a", "user", "all", (Message("user", "Say hi"),), "hi", "no")
    # Numbered by its line, the empty one counted, so that a message can be found in an editor.
    assert other == PreferencePair("row-3", "user", "Chat", (Message("user", "Say bye"),), "bye", "go", given_label="B")
    assert load_pairs(str(path)) == [first, other]


def test_windows_line_ends_and_separators_inside_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {**GOOD, "chosen": "one\u2028two\u0085three"}
    path.write_bytes(json.dumps(row, ensure_ascii=False).encode() + b"\r\n")
    assert [pair.chosen for pair in load_pairs(path)] == ["one\u2028two\u0085three"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    rows = [{**GOOD, "metadata": {"k": 1}}, {**GOOD, "id": "b", "metadata": {"k": 2}}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    pairs = load_pairs(path)
    assert [(pair.id, pair.chosen, pair.metadata) for pair in pairs] == [("a", "hi", {"k": 1}), ("b", "hi", {"k": 2})]


def test_parquet_of_two_responses_and_a_label(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": ["q"], "response_a": ["x"], "response_b": ["y"], "label": ["B"]}), path)
    (pair,) = load_pairs(path)
    assert (pair.id, pair.chosen, pair.rejected) == ("row-1", "y", "x")


def test_own_parquet_reads_back(tmp_path: Path) -> None:
    pair = PreferencePair("a", "s", "d", (Message("user", "q"),), "x", "y", {"deep": [1, {"z": None}]})
    write_pairs([pair], tmp_path / "p.parquet")
    assert load_pairs(tmp_path / "p.parquet") == [pair]


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        ([GOOD, b'{"id": "b",'], r"p\.jsonl, row 2: malformed JSON at column \d+"),
        ([GOOD, b"", b"nonsense"], r"p\.jsonl, row 3: malformed JSON at column 1: Expecting value"),
        ([GOOD, b'{"id": "\xff"}'], r"p\.jsonl, row 2: not UTF-8 \(byte 8 of the line\)"),
        ([b"[1, 2]"], r"row 1: a row must be an object with fields, not list"),
        ([GOOD, GOOD], r"row 2, field 'id': 'a' is the id of row 1 too"),
        ([{**GOOD, "id": 1}, {**GOOD, "id": "1"}], r"row 2, field 'id': '1' is the id of row 1 too"),
        ([GOOD, {**GOOD, "id": "b", "rejected": " hi "}], r"row 2: both responses are equal.*remove the row"),
        ([{**GOOD, "rejected": ""}], r"row 1, field 'rejected': the response is empty: remove the row"),
        ([{**GOOD, "prompt": "hi", "chosen": 3}], r"row 1, field 'chosen': must be text, not int"),
        (
            [{"prompt": "q", "response_a": "x", "response_b": "y", "label": "tie"}],
            r"row 1, field 'label': 'tie' is neither side; write 'A' or 'B'",
        ),
        ([b'{"prompt": "q", "chosen": "\\ud83d", "rejected": "y"}'], r"row 1, field 'chosen': .*surrogate"),
        ([b""], r"p\.jsonl holds no pairs"),
    ],
)
def test_bad_lines(tmp_path: Path, rows: list[Any], pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        load_pairs(write_lines(tmp_path / "p.jsonl", *rows))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl is not there: give the path of a \.jsonl or \.parquet"):
        load_pairs(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="is not there"):
        load_pairs(tmp_path)
    (tmp_path / "p.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"p\.csv: unknown kind of file '\.csv'; use \.jsonl or \.parquet"):
        load_pairs(tmp_path / "p.csv")
    (tmp_path / "p.parquet").write_text("not parquet at all")
    with pytest.raises(DataError, match=r"p\.parquet: cannot be read as parquet"):
        load_pairs(tmp_path / "p.parquet")
    pq.write_table(pa.Table.from_pylist([{**GOOD, "metadata": "{oops"}]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet, row 1, field 'metadata': malformed JSON"):
        load_pairs(tmp_path / "p.parquet")


def many(count: int, per_prompt: int = 3) -> list[PreferencePair]:
    return [
        PreferencePair(f"{prompt}-{n}", "s", "d", (Message("user", f"Question {prompt}"),), f"good {n}", "bad")
        for prompt in range(count)
        for n in range(per_prompt)
    ]


def test_no_prompt_is_on_both_sides() -> None:
    pairs = many(400)
    train, heldout = split_by_prompt(pairs, 0.25, 0)
    assert len(train) + len(heldout) == len(pairs)
    assert not {prompt_key(pair) for pair in train} & {prompt_key(pair) for pair in heldout}
    assert len(heldout) / len(pairs) == pytest.approx(0.25, abs=0.07)


def test_split_depends_on_prompt_and_seed_alone() -> None:
    pairs = many(100)
    _, heldout = split_by_prompt(pairs, 0.2, 7)
    shuffled = list(pairs)
    random.Random(0).shuffle(shuffled)
    _, again = split_by_prompt(shuffled, 0.2, 7)
    assert {pair.id for pair in again} == {pair.id for pair in heldout}
    assert [pair.id for pair in again] == [pair.id for pair in shuffled if pair in heldout]
    _, other_seed = split_by_prompt(pairs, 0.2, 8)
    assert {pair.id for pair in other_seed} != {pair.id for pair in heldout}
    # Pairs that come later move none of the old ones; a larger share only adds to the held-out side.
    _, of_more = split_by_prompt([*pairs, *many(150)[300:]], 0.2, 7)
    assert {pair.id for pair in heldout} <= {pair.id for pair in of_more}
    _, larger = split_by_prompt(pairs, 0.4, 7)
    assert {pair.id for pair in heldout} < {pair.id for pair in larger}


def test_a_side_without_pairs_is_refused() -> None:
    with pytest.raises(DataError, match=r"3 pairs leave . for training and . held out at data\.heldout_fraction=0\.5"):
        split_by_prompt(many(1), 0.5, 0)
