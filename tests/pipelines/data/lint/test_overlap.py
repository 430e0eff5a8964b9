"""Benchmark overlap: planted items are found whole, inside other text and edited; ordinary phrases are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pairs import many_pairs

from pipelines.data.lint.overlap import BenchmarkItem, benchmark_items, benchmark_overlap, overlaps
from pipelines.data.schema import DataError, Message

ASKED = "A farmer has twelve sheep and sells five of them at the market before buying three goats"
ITEM = BenchmarkItem("bench/1", ASKED)
SHORT = BenchmarkItem("bench/2", "What is the colour of Mars?")


def with_prompt(text: str) -> list:
    pairs = many_pairs(30)
    pairs[4] = replace(pairs[4], prompt=(Message("user", text),))
    return pairs


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (ASKED, 1.0),
        (f"Please solve: {ASKED.upper()}! Thanks, and explain every step.", 1.0),
        # 17 words are 10 runs of 8; another last word breaks one of them.
        (ASKED.replace("goats", "horses"), 0.9),
    ],
)
def test_planted_items_are_found(text: str, share: float) -> None:
    (found,) = overlaps(with_prompt(text), [ITEM, SHORT], 0.5)
    assert (found.item, found.pair, found.share) == ("bench/1", 4, pytest.approx(share))


def test_a_phrase_in_common_is_no_overlap() -> None:
    text = "Another farmer has twelve sheep and sells five of them to a friend who has none"
    assert overlaps(with_prompt(text), [ITEM], 0.5) == []
    assert len(overlaps(with_prompt(text), [ITEM], 0.1)) == 1


def test_short_items_must_be_a_whole_message() -> None:
    assert [hit.item for hit in overlaps(with_prompt("what is the colour of mars"), [ITEM, SHORT], 0.5)] == ["bench/2"]
    assert overlaps(with_prompt("Tell me: what is the colour of Mars, and why?"), [SHORT], 0.5) == []


def test_the_finding_reports_by_item_and_benchmark() -> None:
    finding = benchmark_overlap(with_prompt(ASKED), [ITEM, SHORT], 0.5)
    assert finding.ok is False
    assert finding.numbers == {"items": 1, "of": 2, "pairs": 1, "by_benchmark": {"bench": 1}}
    assert finding.examples == ("bench/1 in made/4 (100%)",)
    assert benchmark_overlap(many_pairs(30), [ITEM, SHORT], 0.5).ok
    assert benchmark_overlap(many_pairs(30), [], 0.5).ok is None


def test_items_of_several_benchmarks(tmp_path: Path) -> None:
    rows = {
        "a": {"id": 3, "prompt": "one"},
        "b": {"pair_uid": "u", "conversation_input": [{"role": "user", "content": "two"}, {"content": "three"}]},
        "c": {"pair_id": "p", "question": "four"},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row))
    folder = tmp_path.name
    assert benchmark_items(str(tmp_path / f"{name}.jsonl") for name in rows) == [
        BenchmarkItem(f"{folder}/a/3", "one"),
        BenchmarkItem(f"{folder}/b/u", "two\nthree"),
        BenchmarkItem(f"{folder}/c/p", "four"),
    ]
    (tmp_path / "d.jsonl").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"d\.jsonl, row 1: a benchmark item needs its question in prompt"):
        benchmark_items([str(tmp_path / "d.jsonl")])
