"""Every published form: the pair it gives, that its rows are recognised, and what a bad row is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data import sources
from pipelines.data.preference_file import Mapped, load_pairs, read_pair_file
from pipelines.data.schema import DataError

SHARED = "\n\nHuman: Hello\n\nAssistant: Hi: who is it?\n\nHuman: Me\n\nAssistant:"
USER = {"role": "user", "content": "Name a prime."}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ROWS: dict[str, dict[str, Any]] = {
    "pairs": {"prompt": "Name a prime.", "chosen": "7", "rejected": "9"},
    "rm_r1": {"context_messages": [USER], "winner": "model_a"},
    "messages": {"prompt_id": "x1", "chosen": [USER, assistant("7")], "rejected": [USER, assistant("9")], "score": 2.0},
    "skywork": {"chosen": [USER, assistant("7")], "rejected": [USER, assistant("9")], "source": "wildguard"},
    "code_preference": {"input": "Name a prime.", "accepted": "7", "rejected": "9"},
    "math_step_dpo": {
        "prompt": "Name a prime.",
        "initial_reason_steps": "Step 1: think.\n",
        "full_chosen": "7",
        "full_rejected": "9",
        "answer": "7",
    },
    "hh_rlhf": {"chosen": f"{SHARED} 7", "rejected": f"{SHARED} 9"},
    "pandalm": {
        "instruction": "Name a prime.",
        "input": "Below ten.",
        "response1": "9",
        "response2": "7",
        "annotator1": 2,
        "annotator2": 0,
        "annotator3": 2,
    },
    "helpsteer3": {
        "domain": "stem",
        "language": "english",
        "context": [{"role": "user", "content": "Hi."}, assistant("Ask."), USER],
        "response1": "9",
        "response2": "7",
        "overall_preference": 2,
        "individual_preference": [{"score": 2, "reasoning": "9 is 3 x 3.", "feedback": "9 is odd only."}],
    },
    "gsm8k": {
        "question": "Name a prime.",
        "ground_truth": "7",
        "small": {"is_correct": False, "solution": "9"},
        "large": {"is_correct": True, "solution": "7"},
    },
}
# source, domain, content of the last message, both responses
EXPECTED = {
    "pairs": ("user", "all", "Name a prime.", "7", "9"),
    "messages": ("messages", "chat", "Name a prime.", "7", "9"),
    "skywork": ("wildguard", "safety", "Name a prime.", "7", "9"),
    "code_preference": ("code_preference", "code", "Name a prime.", "7", "9"),
    "math_step_dpo": ("math_step_dpo", "math", "Name a prime.", "Step 1: think.\n7", "Step 1: think.\n9"),
    "hh_rlhf": ("hh-rlhf", "safety", "Me", "7", "9"),
    "pandalm": ("pandalm", "chat", "Name a prime.\n\nBelow ten.", "7", "9"),
    "helpsteer3": ("helpsteer3", "stem", "Name a prime.", "7", "9"),
    "gsm8k": ("grade-school-math", "math", "Name a prime.", "7", "9"),
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_form_is_tested() -> None:
    assert set(ROWS) == set(sources.names())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_as_its_own_form_only(name: str) -> None:
    assert sources.recognise(ROWS[name]) == name
    # In parquet, a row has the columns of all others too, with nothing in them.
    columns = {column for row in ROWS.values() for column in row}
    assert sources.recognise({**dict.fromkeys(columns), **ROWS[name]}) == name
    claims = [other for other in sources.names() if sources.source(other).recognises(ROWS[name])]
    assert claims == [name]


@pytest.mark.parametrize("name", EXPECTED)
def test_pairs(tmp_path: Path, name: str) -> None:
    read = read_pair_file(write(tmp_path / "set.jsonl", ROWS[name]))
    (pair,) = read.pairs
    assert read.schema == name
    assert (pair.source, pair.domain, pair.prompt[-1].content, pair.chosen, pair.rejected) == EXPECTED[name]
    assert load_pairs(tmp_path / "set.jsonl") == [pair]


@pytest.mark.parametrize(("preference", "chosen"), [(-3, "9"), (-1, "9"), (1, "7"), (3, "7")])
def test_the_sign_of_a_preference_names_the_response(tmp_path: Path, preference: int, chosen: str) -> None:
    (pair,) = load_pairs(write(tmp_path / "set.jsonl", {**ROWS["helpsteer3"], "overall_preference": preference}))
    assert pair.chosen == chosen
    assert [message.role for message in pair.prompt] == ["user", "assistant", "user"]


def test_transcripts_keep_their_turns(tmp_path: Path) -> None:
    (pair,) = load_pairs(write(tmp_path / "set.jsonl", ROWS["hh_rlhf"]))
    assert [(message.role, message.content) for message in pair.prompt] == [
        ("user", "Hello"),
        ("assistant", "Hi: who is it?"),
        ("user", "Me"),
    ]


def test_message_lists_of_the_answer_alone_take_the_prompt_column(tmp_path: Path) -> None:
    row = {"prompt": "Name a prime.", "chosen": [assistant("7")], "rejected": [assistant("9")]}
    (pair,) = load_pairs(write(tmp_path / "set.jsonl", row))
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("Name a prime.", "7", "9")


def test_sound_rows_without_a_pair_are_counted(tmp_path: Path) -> None:
    tie = {**ROWS["pandalm"], "annotator1": 0}
    split = {**ROWS["pandalm"], "annotator1": 1}
    read = read_pair_file(write(tmp_path / "a.jsonl", ROWS["pandalm"], tie, split))
    assert (len(read.pairs), read.dropped) == (1, {"no majority for one response": 2})
    tie = {**ROWS["helpsteer3"], "overall_preference": 0}
    read = read_pair_file(write(tmp_path / "c.jsonl", ROWS["helpsteer3"], tie))
    assert (len(read.pairs), read.dropped) == (1, {"neither response is preferred": 1})
    all_right = {**ROWS["gsm8k"], "small": {"is_correct": True, "solution": "9"}}
    read = read_pair_file(write(tmp_path / "b.jsonl", all_right, ROWS["gsm8k"]))
    assert (len(read.pairs), read.dropped) == (1, {"not both a right and a wrong solution": 1})


def test_the_drawn_solutions_do_not_depend_on_the_file(tmp_path: Path) -> None:
    solutions = {f"m{n}": {"is_correct": n % 2 == 0, "solution": f"s{n}"} for n in range(8)}
    rows = [{"question": f"Question {n}?", "ground_truth": "1", **solutions} for n in range(20)]
    straight = {pair.prompt: (pair.chosen, pair.rejected) for pair in load_pairs(write(tmp_path / "a.jsonl", *rows))}
    back = {pair.prompt: (pair.chosen, pair.rejected) for pair in load_pairs(write(tmp_path / "b.jsonl", *rows[::-1]))}
    assert straight == back
    assert {chosen for chosen, _ in straight.values()} == {"s0", "s2", "s4", "s6"}


@pytest.mark.parametrize(
    ("name", "change", "pattern"),
    [
        ("hh_rlhf", {"rejected": "\n\nHuman: Other\n\nAssistant: 9"}, "chosen and rejected differ before their last"),
        ("hh_rlhf", {"rejected": f"{SHARED} 9\n\nHuman: And?"}, "'rejected': the last turn must be the assistant's"),
        ("hh_rlhf", {"rejected": "no turns"}, "'rejected': must be turns that begin with"),
        ("messages", {"rejected": [assistant("9")]}, "chosen and rejected differ before their last message"),
        ("messages", {"rejected": []}, "'rejected': must be a list of"),
        ("messages", {"rejected": [USER]}, "'rejected': the last message must be the assistant's"),
        ("messages", {"chosen": [USER, assistant("9")]}, "both responses are equal"),
        ("messages", {"chosen": [assistant("7")], "rejected": [assistant("9")]}, "'prompt': must be a list"),
        ("skywork", {"source": None}, "field 'source' is missing"),
        ("code_preference", {"accepted": None}, "field 'accepted' is missing"),
        ("code_preference", {"rejected": 9}, "'rejected': must be text, not int"),
        ("math_step_dpo", {"full_chosen": None}, "field 'full_chosen' is missing"),
        ("pandalm", {"annotator2": 3}, "'annotator2': 3 is not 0"),
        ("pandalm", {"response2": ""}, "response is empty"),
        ("helpsteer3", {"overall_preference": 4}, "'overall_preference': 4 is not one of -3"),
        ("helpsteer3", {"overall_preference": True}, "'overall_preference': True is not one of -3"),
        ("helpsteer3", {"context": []}, "'prompt'"),
        ("helpsteer3", {"response1": None}, "field 'response1' is missing"),
        ("gsm8k", {"large": {"is_correct": "yes", "solution": "7"}}, "'large.is_correct': must be true or false"),
        ("gsm8k", {"large": {"is_correct": True}}, "field 'large': field 'solution' is missing"),
        ("rm_r1", {"winner": "tie"}, "'winner': 'tie' is neither side"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, change: dict[str, Any], pattern: str) -> None:
    good = ROWS[name]
    path = write(tmp_path / "set.jsonl", good, {**good, **change})
    with pytest.raises(DataError, match=rf"set\.jsonl, row 2.*{pattern}"):
        read_pair_file(path)
    skipping = read_pair_file(path, on_bad_row="skip")
    assert (len(skipping.pairs), len(skipping.bad)) == (1, 1)


def test_columns_of_any_name(tmp_path: Path) -> None:
    row = {"q": "Name a prime.", "a": {"text": "9"}, "b": {"text": "7"}, "best": 2, "chosen": "unrelated"}
    columns = {"prompt": "q", "response_a": "a.text", "response_b": "b.text", "label": "best"}
    path = write(tmp_path / "set.jsonl", row)
    read = read_pair_file(path, mapped=Mapped(columns, {"1": "A", "2": "B"}))
    (pair,) = read.pairs
    assert (pair.chosen, pair.rejected, pair.given_label) == ("7", "9", "B")
    with pytest.raises(
        DataError, match=r"row 1: column 'b\.txt', for 'response_b', is missing \(the row has: a, b, best"
    ):
        read_pair_file(path, mapped=Mapped({**columns, "response_b": "b.txt"}))
    with pytest.raises(DataError, match="field 'label': 2 is neither side"):
        read_pair_file(path, mapped=Mapped(columns))


def test_unknown_schema_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no schema 'skyworks': use auto, or one of code_preference, gsm8k"):
        read_pair_file(write(tmp_path / "set.jsonl", ROWS["pairs"]), "skyworks")
