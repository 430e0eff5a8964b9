"""Chains that show they were told are found; ordinary judging is not mistaken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.chain_generation.betrayal import BetrayalLint
from pipelines.chain_generation.hints import load_hint
from pipelines.config import ConfigError
from pipelines.data.schema import DataError

PROMPT = [
    {"role": "system", "content": "Compare two answers."},
    {"role": "user", "content": "Summarise the notes of the meeting. Speak of the true verdict of the jury."},
]


def find(text: str, *phrases: str, words: int = 6) -> str | None:
    return BetrayalLint(load_hint("revise"), words, phrases).find(text, PROMPT)


@pytest.mark.parametrize(
    "text",
    [
        "Since the correct verdict is B, I compare them.",
        "The given judgment favours A.",
        "The verdict has already been provided, so I explain it.",
        "I was told that B is better.",
        "I've been informed of the outcome.",
        "We are told that Chatbot A is better.",
        "Knowing that Answer B is stronger, the rubric weighs accuracy.",
        "It is already established that Chatbot B wins.",
        "My earlier attempt missed the second step.",
        "The previous judgment overlooked this.",
        "Unlike somebody else's try, this one checks the sum.",
        "According to the hint, A is better.",
        "As stated in these hints, length does not matter.",
        "On re-evaluation, B is right.",
        "I am expected to pick A.",
        "To justify this verdict I quote both.",
        "I initially preferred A.",
        "We   ARE\ntold that <b>the better</b> answer is B",
        "Careful people have established that Chatbot A gave a good one.",
        "<eval>went wrong in its reasoning, its conclusion</eval>",
    ],
)
def test_betrayals_are_found(text: str) -> None:
    assert find(f"<eval>Both are long. {text}</eval>") is not None


@pytest.mark.parametrize(
    "text",
    [
        "We are told that the train leaves at five.",
        "Chatbot A reaches the correct conclusion, and the correct answer is 12.",
        "The flawed reasoning of Chatbot A leads to 13.",
        "The function is supposed to return a list, as instructed.",
        "We know that a is even and b is odd, so it follows.",
        "It respects the user's stated preference.",
        "According to the notes, the meeting began late.",
        "A speaks of the true verdict of the jury, B does not.",
        "I first check whether both answer the question.",
        "The initial evaluation of the expression gives 4.",
        "<answer>[[B]]</answer>",
    ],
)
def test_ordinary_judging_is_not(text: str) -> None:
    assert find(f"<eval>{text}</eval>") is None


def test_own_phrases_are_added() -> None:
    assert find("The oracle says B.") is None
    assert find("The ORACLE says B.", r"the oracle \w+") == "the oracle says"
    with pytest.raises(ConfigError, match=r"chains\.betrayals: '\(' is not a regular expression"):
        find("x", "(")


def test_length_of_the_repeated_run_is_a_setting() -> None:
    assert find("It is the stronger of the lot.", words=6) is None
    assert find("It is the stronger of the lot.", words=4) == "the stronger of the"


def test_a_hint_that_tells_nothing_betrays_nothing() -> None:
    assert BetrayalLint(load_hint("retry"), 6).find("I was told that B is right.", PROMPT) is None


def test_the_hint_goes_into_the_users_last_message() -> None:
    messages = load_hint("revise").messages(PROMPT, "it is {A}", "B")
    assert messages[0] == PROMPT[0]
    assert messages[1]["content"].startswith(PROMPT[1]["content"] + "\n")
    assert "it is {A}" in messages[1]["content"]
    assert "Chatbot B gave the stronger" in messages[1]["content"]
    assert load_hint("retry").messages(PROMPT, "x", "A") == PROMPT


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"{attempt}", "must name {request}"),
        (b"{request} {label}", "names ['label', 'request']"),
        (b"{request!r}", "must name {request}"),
        (b"{request", "write a brace of its own twice"),
        (b"{request} \xff", "not UTF-8 (byte 10)"),
    ],
)
def test_bad_templates_are_named(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "hint.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_hint(str(path))
    assert part in str(caught.value)
    assert "hint.txt" in str(caught.value)
    with pytest.raises(DataError, match="use one of retry, revise"):
        load_hint("nope")
