"""No part of a question is lost: known forms are joined, columns that nobody reads are refused or ignored by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.preference_file import Mapped, PairFile, read_pair_file
from pipelines.data.schema import DataError

CHOSEN, REJECTED = "25 percent.", "7 percent."


def say(*turns: str) -> list[dict[str, str]]:
    """Messages of ``role: content``; u, a and s for the roles."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[3:]} for turn in turns]


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> PairFile:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pair_file(path, **options)


def prompt_of(tmp_path: Path, row: dict[str, Any]) -> list[str]:
    (pair,) = read(tmp_path, row).pairs
    assert (pair.chosen, pair.rejected) == (CHOSEN, REJECTED)
    return [f"{message.role[0]}: {message.content}" for message in pair.prompt]


def lists(*turns: str) -> dict[str, Any]:
    return {"chosen": say(*turns, f"a: {CHOSEN}"), "rejected": say(*turns, f"a: {REJECTED}")}


TEXTS = {"chosen": CHOSEN, "rejected": REJECTED}
LONG = ["s: Adviser.", "u: Norway.", "a: Noted.", "u: VAT?"]


@pytest.mark.parametrize("cut", range(1, 5))
def test_lists_that_go_on_after_the_prompt(tmp_path: Path, cut: int) -> None:
    assert prompt_of(tmp_path, {"prompt": say(*LONG[:cut]), **lists(*LONG[cut:])}) == LONG


@pytest.mark.parametrize("cut", range(1, 5))
def test_lists_that_repeat_the_prompt(tmp_path: Path, cut: int) -> None:
    assert prompt_of(tmp_path, {"prompt": say(*LONG[:cut]), **lists(*LONG)}) == LONG
    assert prompt_of(tmp_path, {"prompt": say(*LONG[:cut]), **lists(*LONG[1:])}) == LONG[cut == 1 and 0 :]


def test_lists_that_repeat_the_end_of_the_prompt(tmp_path: Path) -> None:
    assert prompt_of(tmp_path, {"prompt": say(*LONG[:2]), **lists(*LONG[1:])}) == LONG
    assert prompt_of(tmp_path, {"prompt": say(*LONG), **lists("u: VAT?")}) == LONG


@pytest.mark.parametrize("text", ["Norway.", " norway. ", "VAT?"])
def test_a_text_that_the_lists_have_is_there_once(tmp_path: Path, text: str) -> None:
    assert prompt_of(tmp_path, {"prompt": text, **lists(*LONG)}) == LONG


def test_a_text_that_the_lists_answer(tmp_path: Path) -> None:
    assert prompt_of(tmp_path, {"prompt": "Norway.", **lists("a: Noted.", "u: VAT?")}) == LONG[1:]


def test_ultrafeedback_repeats_the_chosen_list(tmp_path: Path) -> None:
    row = {"prompt": "VAT?", "prompt_id": "x", "messages": say("u: VAT?", f"a: {CHOSEN}"), "score_chosen": 8.0}
    assert prompt_of(tmp_path, {**row, **lists("u: VAT?")}) == ["u: VAT?"]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "Adviser.", "prompt": "VAT?", **TEXTS}, ["s: Adviser.", "u: VAT?"]),
        ({"system": "Adviser.", "question": "VAT?", **TEXTS}, ["s: Adviser.", "u: VAT?"]),
        ({"system": "", "input": "VAT?", **TEXTS, "generations": ["x"]}, ["u: VAT?"]),
        ({"system": "Adviser.", **lists("u: VAT?")}, ["s: Adviser.", "u: VAT?"]),
        ({"system": "Adviser.", **lists("s: Adviser.", "u: VAT?")}, ["s: Adviser.", "u: VAT?"]),
        ({"instruction": "VAT?", "input": "Norway.", **TEXTS}, ["u: VAT?\n\nNorway."]),
        ({"instruction": "VAT?", "input": "", "system": None, "history": [], **TEXTS}, ["u: VAT?"]),
        (
            {"instruction": "VAT?", "history": [["Norway.", "Noted."]], "system": "Adviser.", **TEXTS},
            LONG,
        ),
        ({"prompt": "VAT?", "history": say(*LONG[:3]), **TEXTS}, LONG),
        ({"prompt": say(*LONG), "history": say(*LONG[1:3]), "system": "Adviser.", **TEXTS}, LONG),
        (
            {
                "conversations": [{"from": "human", "value": "VAT?"}],
                "chosen": {"from": "gpt", "value": CHOSEN},
                "rejected": {"from": "gpt", "value": REJECTED},
                "tools": "[]",
            },
            ["u: VAT?"],
        ),
        (
            {"messages": say(*LONG), "chosen": say(f"a: {CHOSEN}")[0], "rejected": say(f"a: {REJECTED}")[0]},
            LONG,
        ),
        ({"prompt": "Norway: VAT?", "question": "VAT?", "instruction": "norway:  vat?", **TEXTS}, ["u: Norway: VAT?"]),
        ({"prompt": "VAT?", "context": None, "images": [], "messages": 2, "model": "m", **TEXTS}, ["u: VAT?"]),
        (
            {
                "messages": [
                    {"role": "developer", "content": [{"type": "text", "text": "Adviser."}]},
                    {"role": "user", "content": [{"type": "text", "text": "VA"}, {"type": "text", "text": "T?"}]},
                ],
                "chosen": {"role": "assistant", "content": [{"type": "text", "text": CHOSEN}]},
                "rejected": {"role": "assistant", "content": [{"type": "text", "text": REJECTED}]},
            },
            ["s: Adviser.", "u: VAT?"],
        ),
    ],
)
def test_columns_of_known_forms(tmp_path: Path, row: dict[str, Any], prompt: list[str]) -> None:
    assert prompt_of(tmp_path, row) == prompt


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "VAT?", "context": "Norway.", **TEXTS}, "field 'context': could be part of the question"),
        ({"prompt": "VAT?", "Context": ["Norway."], **TEXTS}, r"field 'Context'.*ignore_columns=\[Context\]"),
        ({"prompt": "VAT?", "context": "25", **TEXTS}, "field 'context'"),
        ({"prompt": "VAT?", "input": "Norway.", **TEXTS}, "field 'input'"),
        ({"prompt": "VAT?", "system_prompt": "Adviser.", **TEXTS}, "field 'system_prompt'"),
        ({"prompt": "VAT?", "messages": say("u: Norway."), **TEXTS}, "field 'messages'"),
        ({"prompt": "VAT?", "tools": [{"name": "f"}], **TEXTS}, "field 'tools'"),
        ({"prompt": "VAT?", "images": ["x.png"], **TEXTS}, "field 'images'"),
        ({"context": "Norway.", **lists("u: VAT?")}, "field 'context'"),
        ({"prompt": "VAT?", "history": "Norway.", **TEXTS}, "field 'history': must be messages, or pairs"),
        ({"prompt": "Sweden.", **lists("u: VAT?")}, "field 'chosen': the conversation does not go on with it"),
        ({"system": "Poet.", **lists("s: Adviser.", "u: VAT?")}, "field 'chosen': the conversation does not go on"),
        ({"system": "Poet.", "prompt": say("s: Adviser.", "u: VAT?"), **TEXTS}, "field 'system': the conversation"),
        (
            {"prompt": say("u: Norway."), **lists("a: Noted.", "u: VAT?")}
            | {"rejected": say("a: No.", "u: VAT?", "a: 7")},
            "chosen and rejected differ before their last message",
        ),
        ({"prompt": [{**say("u: VAT?")[0], "images": ["x.png"]}], **TEXTS}, "message 1: 'images' cannot be shown"),
        ({"prompt": "VAT?", **lists("a: Noted.")}, "the last message must be the user's"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"set\.jsonl, row 1.*{message}"):
        read(tmp_path, row)
    good = {"prompt": "Fine?", "chosen": "yes", "rejected": "no", "id": "x"} if "prompt" in row else lists("u: Fine?")
    if isinstance(row["chosen"], list) and "prompt" in row:
        good = lists("u: Fine?")
    skipping = read(tmp_path, good, row, on_bad_row="skip")
    assert (len(skipping.pairs), len(skipping.bad)) == (1, 1)


def test_columns_that_are_ignored_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"VAT {n}?", "context": "Norway." * n, "system": "Poet.", **TEXTS} for n in range(3)]
    result = read(tmp_path, *rows, ignore=["context", "system", "absent"])
    assert [len(pair.prompt) for pair in result.pairs] == [1, 1, 1]
    assert result.losses() == ("column context ignored in 2 rows", "column system ignored in 3 rows")


def test_a_mapping_reads_no_more_than_it_names(tmp_path: Path) -> None:
    row = {"q": "VAT?", "a": CHOSEN, "b": REJECTED, "context": "Norway.", "sys": "Adviser."}
    columns = {"prompt": "q", "chosen": "a", "rejected": "b", "system": "sys"}
    with pytest.raises(DataError, match="field 'context'"):
        read(tmp_path, row, mapped=Mapped(columns))
    (pair,) = read(tmp_path, row, mapped=Mapped(columns), ignore=["context"]).pairs
    assert [message.content for message in pair.prompt] == ["Adviser.", "VAT?"]


def test_columns_of_ordinary_sets_are_no_context(tmp_path: Path) -> None:
    extra = {"conversation_id": "c", "question_id": 3, "category": "tax", "score_chosen": 4.5, "chosen_model": "m"}
    extra |= {"margin": 1, "topic": "VAT", "language": "en", "turn": 2, "rationale": "Norway has 25.", "tags": ["a"]}
    assert prompt_of(tmp_path, {"prompt": "VAT?", **extra, **TEXTS}) == ["u: VAT?"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((name, "VAT is 25 percent.") for name in ("systemPrompt", "System prompt", "context_text", "article", "sys")),
        *((name, "x.png") for name in ("image_url", "imagePath", "video_bytes")),
        ("choices", ["7", "25"]),
        ("turns", say("u: Norway.", "a: Noted.")),
        ("info", {"post": "Norway."}),
    ],
)
def test_a_part_of_the_question_by_any_spelling(tmp_path: Path, column: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"field '{column}.*data\.ignore_columns=\[{column}\]"):
        read(tmp_path, {"prompt": "VAT?", column: value, **TEXTS})
    assert read(tmp_path, {"prompt": "VAT?", column: value, **TEXTS}, ignore=[column]).pairs


@pytest.mark.parametrize("value", ["null", "None", " ", 7, 2.5, {"post": None}, [None]])
def test_columns_without_a_text_are_no_part_of_a_question(tmp_path: Path, value: Any) -> None:
    row = {"prompt": "VAT?", "context": value, "tools": value, "info": {"text": value}, **TEXTS}
    assert prompt_of(tmp_path, row) == ["u: VAT?"]


def test_a_mapped_response_within_an_object_is_read(tmp_path: Path) -> None:
    row = {"prompt": "VAT?", "best": {"text": CHOSEN}, "other": {"text": REJECTED}}
    columns = {"chosen": "best.text", "rejected": "other.text"}
    assert read(tmp_path, row, mapped=Mapped(columns)).pairs[0].chosen == CHOSEN


def test_a_blank_system_message_is_none(tmp_path: Path) -> None:
    assert prompt_of(tmp_path, {"system": " ", "prompt": "VAT?", **TEXTS}) == ["u: VAT?"]


def test_messages_beside_lists_that_only_answer(tmp_path: Path) -> None:
    assert prompt_of(tmp_path, {"messages": say(*LONG), **lists()}) == LONG
    turns = [{"from": "human", "value": "VAT?"}]
    assert prompt_of(tmp_path, {"conversations": turns, **lists()}) == ["u: VAT?"]


@pytest.mark.parametrize("as_list", [True, False])
def test_a_response_that_calls_a_tool_is_not_whole(tmp_path: Path, as_list: bool) -> None:
    call = {"role": "assistant", "content": CHOSEN, "tool_calls": [{"name": "f"}]}
    other = {"role": "assistant", "content": REJECTED}
    answers = {"chosen": [call], "rejected": [other]} if as_list else {"chosen": call, "rejected": other}
    with pytest.raises(DataError, match="field 'chosen': 'tool_calls' cannot be shown to a judge"):
        read(tmp_path, {"prompt": "VAT?", **answers})
