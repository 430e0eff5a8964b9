"""The journal: what is in it is finished, a torn end is cut off, damage is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.data.schema import DataError
from pipelines.endpoints.journal import Journal, set_aside
from pipelines.endpoints.requests import Answer

ANSWER = Answer("k0", "p/chosen_first", 0, 0, "a\u2028b\n\U0001f600", "stop", "m", 10, 5, False, 0.25, 1.5, 2)


def filled(path: Path, count: int) -> list[Answer]:
    answers = [replace(ANSWER, key=f"k{number}", sample=number) for number in range(count)]
    with Journal(path) as journal:
        for answer in answers:
            journal.append(answer)
    return answers


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    answers = filled(tmp_path / "deep" / "j.jsonl", 3)
    with Journal(tmp_path / "deep" / "j.jsonl") as journal:
        assert list(journal.answers.values()) == answers
        assert (journal.tokens, journal.cost) == (45, 0.75)


def test_a_torn_end_loses_only_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    answers = filled(path, 3)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    for cut in sorted({*range(0, len(whole), 41), *(end + off for end in [0, *ends] for off in (-1, 0, 1))} - {-1}):
        if cut > len(whole):
            continue
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            lines = sum(end <= cut for end in ends)
            assert list(journal.answers.values()) == answers[:lines]
        assert path.stat().st_size == ([0, *ends][lines])
    path.write_bytes(whole[: ends[1] + 5])
    with Journal(path) as journal:
        journal.append(answers[2])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("{oops", ["malformed JSON"]),
        ("[1]", ["not an object"]),
        ('{"key": "k"}', ["field 'prompt_uid': None is not str"]),
    ],
)
def test_damage_is_named(tmp_path: Path, line: str, parts: list[str]) -> None:
    path = tmp_path / "j.jsonl"
    filled(path, 1)
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    with pytest.raises(DataError) as caught, Journal(path):
        pass
    for part in ["j.jsonl, line 2", "remove the line", *parts]:
        assert part in str(caught.value)


def test_wrong_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    filled(path, 1)
    path.write_bytes(path.read_bytes().replace(b'"prompt_tokens": 10', b'"prompt_tokens": true'))
    with pytest.raises(DataError, match=r"line 1, field 'prompt_tokens': True is not int"), Journal(path):
        pass


def test_set_aside_keeps_every_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert set_aside(path) is None
    for number in (1, 2):
        filled(path, number)
        assert set_aside(path) == tmp_path / f"journal-{number}.jsonl"
    assert not path.exists()
    assert len((tmp_path / "journal-2.jsonl").read_bytes().splitlines()) == 2
