"""Everything that reads responses, chains and traces takes time linear in their length, whatever they repeat.

Growth is compared in processor time of this process, from 10^4 to 10^5 to 4 * 10^5 characters: ten times the text may
take forty times as long, and four times nine. What is quadratic takes a hundred and sixteen times as long.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable

import pytest

from actors.verifier.trace import parse, read_verdict
from pipelines.chain_generation.betrayal import BetrayalLint
from pipelines.chain_generation.hints import load_hint
from pipelines.chain_generation.quality import criteria, measure, quote_found, tallied, weights_sum
from pipelines.data.lint.responses import is_truncated, markdown_marks, word_count
from pipelines.data.lint.words import Words, runs
from pipelines.data.question import stands_in
from pipelines.data.rows import parse_json
from pipelines.data.schema import DataError, PreferencePair, normalised, validate
from pipelines.data.sources import hh_rlhf
from pipelines.data.text import unicode_fault
from pipelines.data.tiny_tasks import read_solution, true_first
from pipelines.evaluation.quotes import marks

FRAGMENTS = {
    "line feeds": "\n",
    "spaces": " ",
    "spaces and line feeds": " \n",
    "tabs and returns": "\t\r",
    "unicode spaces": "\u00a0\u2003\u2028\u3000",
    "digits": "1",
    "figures": "1.5 ",
    "dots": ".",
    "ellipses": " ... ",
    "backticks": "`",
    "open code": "`a\n",
    "stars": "* ",
    "hashes": "# ",
    "numbers": "\n1. ",
    "quotes": "\"'",
    "brackets": "[[A]",
    "angles": "<",
    "open tags": "<eval>",
    "closing tags": "</think>",
    "answers": "<answer>[[A]]</answer>",
    "open solutions": "<solution>so a : ",
    "open rubrics": "<rubric>list a ",
    "quote tags": "<quote_A>a</quote_A>",
    "open quote tags": "<quote_A> ",
    "sides": "total A = B ",
    "phrases": "the notes say ",
    "turns": "\n\nHuman:",
    "letters": "a",
    "accents": "e\u0301",
}
# Ends that make a pattern which ran over the fragments fail.
ENDS = ("{}", "<rubric>{}%x</rubric>x")
FRAMES = (*ENDS, "<eval>{}</eval>", "<eval><quote_A>{}</quote_A></eval>")

PAIR = validate({"prompt": "q", "chosen": "a", "rejected": "b"}, place="row")
REASONING = PreferencePair("a", "tiny", "Reasoning", PAIR.prompt, "a", "b", {"work": "a", "answer": "b"})
CHAT = PreferencePair("a", "tiny", "Chat", PAIR.prompt, "a", "b", {"true_order": ["a"]})
BETRAYAL = BetrayalLint(load_hint("revise"), 8)


def transcript(text: str) -> None:
    with contextlib.suppress(DataError):
        hh_rlhf.pair({"chosen": f"\n\nHuman: q\n\nAssistant:{text}", "rejected": "\n\nHuman: q\n\nAssistant: a"}, "", 1)


READERS: dict[str, Callable[[str], object]] = {
    "markdown": markdown_marks,
    "ends": is_truncated,
    "word count": word_count,
    "words": lambda text: runs(Words().of(text), 5),
    "marks": lambda text: Words().marks(text),
    "normalised": normalised,
    "unicode": unicode_fault,
    "json": lambda text: parse_json(b'{"a": ' + text.encode().hex().encode().join((b'"', b'"')) + b"}", "row"),
    "transcript": transcript,
    "contained": lambda text: stands_in(f"{text}x", text),
    "parse": parse,
    "strict verdict": lambda text: read_verdict(text, "strict"),
    "quality": lambda text: measure(text, {"A": text, "B": "b"}),
    "quote": lambda text: quote_found(text, f"{text}b"),
    "weights": lambda text: weights_sum(parse(text)),
    "criteria": lambda text: criteria(parse(text)),
    "tally": tallied,
    "betrayal": lambda text: BETRAYAL.find(text, [{"role": "user", "content": text[:1000]}]),
    "quoted passages": lambda text: marks(text, text, "A"),
    "solution": lambda text: read_solution(text, REASONING),
    "rubric": lambda text: true_first(text, CHAT),
}
KNOWS_NO_TAGS = {
    *("markdown", "ends", "word count", "words", "normalised", "unicode", "json", "transcript", "contained", "quote"),
    "betrayal",
}
_FLOOR = 0.02
"""Seconds below which nothing is compared."""


def seconds(reader: Callable[[str], object], text: str) -> float:
    """Processor time, so that other processes of the machine do not count; nor does the collection of garbage, which
    looks at all that the tests before have left in this process."""
    gc.disable()
    try:
        before = time.process_time()
        reader(text)
        return time.process_time() - before
    finally:
        gc.enable()


def texts(length: int, frames: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Every fragment in every frame, repeated up to a length."""
    return {
        (name, frame): frame.format(fragment * (length // len(fragment)))
        for name, fragment in FRAGMENTS.items()
        for frame in frames
    }


def grows_too_fast(name: str, small: int, large: int) -> list[tuple[str, str]]:
    """Texts that take a reader much longer than their length says: time may grow with its power of 1.6."""
    reader, frames = READERS[name], ENDS if name in KNOWS_NO_TAGS else FRAMES
    before = {which: seconds(reader, text) for which, text in texts(small, frames).items()}
    found = texts(large, frames).items()
    limit = (large / small) ** 1.6
    return [which for which, text in found if seconds(reader, text) > limit * max(before[which], _FLOOR)]


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_times_the_text(name: str) -> None:
    assert not grows_too_fast(name, 10_000, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_forty_times_the_text(name: str) -> None:
    assert not grows_too_fast(name, 100_000, 400_000)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# Title\n\n- one\n  * two\n\n   \n1. three\n", 4),
        ("\n\n\n- one", 1),
        ("**bold** and `code` and\n```\ncode\n```\n| a |", 6),
        ("a - b 1. c # d", 0),
    ],
)
def test_the_marks_that_are_counted_are_the_same(text: str, count: int) -> None:
    assert markdown_marks(text) == count
