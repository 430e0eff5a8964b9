"""Files of decisions: rows by suffix, a preference set that `make data` takes, the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.data.preference_file import load_pairs
from pipelines.data.schema import PreferencePair
from pipelines.judgment.decision import Decision, PairVote, Winner, decide
from pipelines.judgment.judging import asked
from pipelines.judgment.outputs import write_decisions_page, write_preferences, write_rows


def decision(winner: Winner) -> Decision:
    sides = {"a": "aa", "b": "bb", "tie": "ab"}[winner]
    text = "<type>Chat</type><eval><quote_A>wide</quote_A></eval></script><answer>[[A]]</answer>"
    votes = [
        PairVote(
            order=order,  # type: ignore[arg-type]
            number=0,
            winner=side,  # type: ignore[arg-type]
            cause=None,
            probability=0.9,
            text=text,
            prompt_tokens=10,
            completion_tokens=5,
            prompt_hash=order,
        )
        for order, side in zip(("a_first", "b_first"), sides, strict=True)
    ]
    return decide(votes, "m", "w")


JUDGED: list[tuple[PreferencePair, Decision]] = [
    (replace(asked(f"q{number}", f"wide {number}", "narrow"), id=f"p{number}"), decision(winner))
    for number, winner in enumerate(("a", "b", "tie"))
]


def test_rows_by_suffix(tmp_path: Path) -> None:
    rows = [{"id": pair.id, **decision.as_json()} for pair, decision in JUDGED]
    for suffix in (".jsonl", ".parquet"):
        write_rows(tmp_path / f"out/d{suffix}", rows)
    lines = [json.loads(line) for line in (tmp_path / "out/d.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "out/d.parquet").to_pylist()
    assert [row["winner"] for row in lines] == [row["winner"] for row in table] == ["a", "b", "tie"]
    assert json.loads(table[1]["verdicts"]) == lines[1]["verdicts"] == {"a_first": "b", "b_first": "b"}


def test_a_preference_set_of_what_has_a_winner(tmp_path: Path) -> None:
    file = tmp_path / "preferences.parquet"
    assert write_preferences(file, JUDGED) == 2
    pairs = load_pairs(file)
    assert [(pair.id, pair.chosen, pair.rejected) for pair in pairs] == [
        ("p0", "wide 0", "narrow"),
        ("p1", "narrow", "wide 1"),
    ]
    assert write_preferences(file, JUDGED[2:]) == 0
    assert not file.exists()


def test_the_page_holds_what_was_written_as_data_alone(tmp_path: Path) -> None:
    write_decisions_page(tmp_path / "d.html", JUDGED, "pairs.jsonl", most=2)
    page = (tmp_path / "d.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert (len(data["rows"]), data["total"]) == (2, 3)
    # Both orders call one of the responses A, and quote "wide" of it: it stands in response a alone.
    assert (data["rows"][0]["marks_a"], data["rows"][0]["marks_b"]) == ([[0, 4]], [])
    assert data["rows"][0]["votes"][0]["text"].count("</script>") == 1
