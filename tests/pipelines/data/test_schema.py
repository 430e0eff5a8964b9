"""Rows become pairs or a message that says what to mend and where; keys and files keep what they should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.schema import (
    DataError,
    Message,
    PreferencePair,
    content_key,
    prompt_key,
    read_pairs,
    validate,
    write_pairs,
)
from pipelines.data.tiny_tasks import generate_items

ROW: dict[str, Any] = {
    "id": "p1",
    "source": "mine",
    "domain": "Chat",
    "prompt": [{"role": "user", "content": "Name a prime."}],
    "chosen": "7",
    "rejected": "9",
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**ROW, **fields}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


def test_full_row() -> None:
    row = changed(
        prompt=[
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Name a prime."},
        ],
        metadata={"level": 3},
    )
    pair = validate(row, place="f, row 1")
    assert [message.role for message in pair.prompt] == ["system", "user", "assistant", "user"]
    assert pair.prompt[3] == Message("user", "Name a prime.")
    assert (pair.id, pair.source, pair.domain, pair.chosen, pair.rejected) == ("p1", "mine", "Chat", "7", "9")
    assert pair.metadata == {"level": 3}


def test_roles_and_parts_as_openais_clients_write_them() -> None:
    parts = [
        {"type": "text", "text": "Which", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": " is?"},
    ]
    # A table states the columns of all kinds in each part.
    wide = [{"type": "text", "text": "Be brief.", "image_url": None}]
    pair = validate(
        changed(prompt=[{"role": "developer", "content": wide}, {"role": "user", "content": parts}]), place=""
    )
    assert [(turn.role, turn.content) for turn in pair.prompt] == [("system", "Be brief."), ("user", "Which is?")]


def test_defaults_of_what_may_be_left_out() -> None:
    pair = validate({"prompt": "Name a prime.", "chosen": "7", "rejected": "9"}, place="f, row 12", number=12)
    assert pair == PreferencePair("row-12", "user", "all", (Message("user", "Name a prime."),), "7", "9", {})
    assert validate(changed(domain=None, source=None, metadata=None), place="f").domain == "all"
    assert validate(changed(id=4), place="f").id == "4"


@pytest.mark.parametrize(("label", "chosen", "rejected"), [("A", "seven", "nine"), ("B", "nine", "seven")])
def test_two_responses_and_a_label(label: str, chosen: str, rejected: str) -> None:
    row = {"prompt": "Name a prime.", "response_a": "seven", "response_b": "nine", "label": label}
    pair = validate(row, place="f")
    assert (pair.chosen, pair.rejected) == (chosen, rejected)


AB = {"prompt": "q", "response_a": "x", "response_b": "y"}


def test_columns_without_a_value_do_not_count() -> None:
    """A parquet file that mixes both forms has every column in every row."""
    empty = dict.fromkeys(("response_a", "response_b", "label"))
    assert validate({**ROW, **empty}, place="f").chosen == "7"
    assert validate({**AB, "label": "B", "chosen": None, "rejected": None}, place="f").chosen == "y"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([], ["an object with fields", "list"]),
        ("text", ["an object with fields", "str"]),
        (without("prompt"), ["'prompt'", "must be a list of {role, content} messages"]),
        (changed(prompt=[]), ["'prompt'", "must be a list"]),
        (changed(prompt=7), ["'prompt'", "must be a list"]),
        (changed(prompt=["hi"]), ["'prompt', message 1", "needs text fields 'role' and 'content'"]),
        (changed(prompt=[{"role": "user"}]), ["'prompt', message 1", "needs text fields"]),
        (changed(prompt=[{"role": "user", "content": 5}]), ["'prompt', message 1", "needs text fields"]),
        (changed(prompt=[{"role": "tool", "content": "a"}]), ["message 1", "'tool'", "system, user, assistant"]),
        (
            changed(prompt=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]),
            ["message 1", "'image_url' cannot be shown to a judge"],
        ),
        (changed(prompt=[{"role": "user", "content": [{"text": "a"}]}]), ["message 1", "'no part with a type'"]),
        (changed(prompt=[{"role": "user", "content": []}]), ["message 1", "needs text fields"]),
        (changed(prompt=[{"role": [], "content": "a"}]), ["message 1", "role []", "system, user, assistant"]),
        (
            changed(prompt=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
            ["'prompt'", "last message must be the user's, not the assistant's"],
        ),
        (changed(prompt=[{"role": "system", "content": "a"}]), ["last message must be the user's, not the system's"]),
        (changed(prompt=" \n"), ["'prompt'", "last message is empty"]),
        (without("chosen"), ["'chosen' is missing", "the row has: domain, id, prompt, rejected, source"]),
        (without("rejected"), ["'rejected' is missing"]),
        (changed(chosen=None), ["'chosen' is missing"]),
        (changed(chosen=["7"]), ["'chosen'", "must be text, not list"]),
        (changed(rejected=9), ["'rejected'", "must be text, not int"]),
        (changed(chosen=" \t\n"), ["'chosen'", "empty", "remove the row"]),
        (changed(rejected=""), ["'rejected'", "empty", "remove the row"]),
        (changed(rejected=" 7\n"), ["both responses are equal", "remove the row"]),
        (changed(source=3), ["'source'", "must be text, not int"]),
        (changed(domain=[]), ["'domain'", "must be text, not list"]),
        (changed(id=""), ["'id'", "text or a whole number", "leave it out"]),
        (changed(id=True), ["'id'", "text or a whole number", "not True"]),
        (changed(id=1.5), ["'id'", "text or a whole number"]),
        (changed(metadata=[]), ["'metadata'", "must be an object, not list"]),
        (changed(metadata="x"), ["'metadata'", "must be an object, not str"]),
        ({**AB, "label": "C"}, ["'label'", "'C' is neither side", "'A' or 'B'"]),
        ({**AB, "label": "a"}, ["'label'", "'a' is neither side"]),
        ({**AB, "label": 0}, ["'label'", "0 is neither side"]),
        ({**AB, "label": None}, ["'label'", "None is neither side"]),
        (AB, ["'label'", "None is neither side; write 'A' or 'B'"]),
        ({"prompt": "q", "response_a": "x", "label": "A"}, ["'response_b' is missing"]),
        ({**AB, "response_b": " ", "label": "A"}, ["'response_b'", "empty"]),
        (changed(chosen="half \ud83d"), ["'chosen'", "character 6", "half of a surrogate pair", "remove the row"]),
        (changed(prompt="\udc00"), ["'prompt', message 1", "half of a surrogate pair"]),
    ],
)
def test_bad_rows_say_where_what_and_how_to_mend(row: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        validate(row, place="mine.jsonl, row 31")
    message = str(caught.value)
    assert message.startswith("mine.jsonl, row 31")
    for word in words:
        assert word in message


def pair_of(prompt: str, chosen: str, rejected: str, **fields: Any) -> PreferencePair:
    return PreferencePair("i", "s", "d", (Message("user", prompt),), chosen, rejected, **fields)


def test_keys_see_content_and_not_its_dress() -> None:
    pair = pair_of("What is 2+2?", "Four", "Five")
    same = [
        pair_of("what  is 2+2?\n", " four", "FIVE"),
        pair_of("What is 2+2?", "Five", "Four"),
        replace(pair, id="other", source="other", domain="other", metadata={"a": 1}),
    ]
    for other in same:
        assert prompt_key(other) == prompt_key(pair)
        assert content_key(other) == content_key(pair)
    assert prompt_key(pair_of("What is 2+3?", "Four", "Five")) != prompt_key(pair)
    assert content_key(pair_of("What is 2+2?", "Four", "Six")) != content_key(pair)


def test_prompt_key_sees_roles_and_turn_boundaries() -> None:
    def conversation(*turns: tuple[Any, str]) -> str:
        return prompt_key(PreferencePair("i", "s", "d", tuple(Message(*turn) for turn in turns), "x", "y"))

    keys = {
        conversation(("user", "a b")),
        conversation(("user", "a"), ("user", "b")),
        conversation(("system", "a"), ("user", "b")),
        conversation(("user", "a"), ("assistant", "b")),
    }
    assert len(keys) == 4


def test_pairs_survive_the_round_trip(tmp_path: Path) -> None:
    metadata: Mapping[str, Any] = {"list": [1, "é"], "nested": {"x": None, "y": 1.5}}
    pairs = [
        *generate_items(1, {"rl": 30})["rl"],
        replace(pair_of("{braces} \u2028 日本 🙂 \x01", "a\nb", 'c"\\'), metadata=metadata),
        PreferencePair("m", "s", "d", (Message("system", ""), Message("user", "q")), "x", "y"),
    ]
    path = tmp_path / "new folder" / "pairs.parquet"
    write_pairs(pairs, path)
    assert read_pairs(path) == pairs
    write_pairs(pairs[:2], path)
    assert read_pairs(path) == pairs[:2]
    assert [file.name for file in path.parent.iterdir()] == ["pairs.parquet"]


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pair = pair_of("q", "x", "y")
    write_pairs([pair], path)
    with pytest.raises(TypeError):
        write_pairs([replace(pair, metadata={"not": {"json"}})], path)
    with pytest.raises(UnicodeEncodeError):
        write_pairs([replace(pair, chosen="\ud800")], path)
    assert read_pairs(path) == [pair]
    assert list(tmp_path.iterdir()) == [path]
