"""Throws hostile traces at the parser of judgments: `make fuzz`, or

    python tests/support/fuzz_traces.py --traces 1000000 --seed 0

Each trace is a soup of tags (nested, repeated, unclosed, in other case), answers, control characters and prose, bare or
quoted inside a judgment of known verdict. Every rule is held against a second, plain reading of it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from actors.messages import Side
from actors.verifier.trace import PAPER_WINDOW, parse, read_verdict, well_formed

TAGS = (
    "think",
    "type",
    "solution",
    "rubric",
    "justify",
    "eval",
    "answer",
    "quote_A",
    "summary_A",
    "quote_B",
    "summary_B",
)
MARKS = [
    *(f"<{slash}{name}>" for slash, name in product(("", "/"), TAGS)),
    *("<EVAL>", "</Answer>", "<answer >", "< eval>", "<answer", "[[", "]]", "<<eval>>", "<eval/>"),
    *("[[A]]", "[[B]]", "[[C]]", "[[a]]", "[[A]", "[A]", "[[A]][[B]]"),
    *("<answer>[[A]]</answer>", "<answer>[[B]]</answer>", "<answer> [[A]] </answer>", "<answer>A</answer>"),
    *(" ", "\n", "\x00", "\x1b[2J", "\ud800", "\u202e", "\u2028", "\u0130", "word ", "x" * PAPER_WINDOW, ""),
]
SIDES: tuple[Side, Side] = ("A", "B")


def answer(side: Side) -> str:
    """The full answer tag."""
    return f"<answer>[[{side}]]</answer>"


def plain(text: str, places: dict[Side, bool]) -> Side | None:
    """The side that is found alone."""
    found = [side for side in SIDES if places[side]]
    return found[0] if len(found) == 1 else None


def check(text: str, truncated: bool) -> None:
    """Hold one trace against the documented rules.

    Raises:
        AssertionError: a rule is broken; the text is in the message.

    """
    read = {mode: read_verdict(text, mode, truncated=truncated) for mode in ("strict", "paper", "reference")}  # type: ignore[arg-type]
    empty = not text.strip()
    for mode, verdict in read.items():
        assert (verdict.side is None) != (verdict.cause is None), (mode, text)
        assert (verdict.cause == "empty") == empty, (mode, text)
        assert verdict.cause != "truncated" or truncated, (mode, text)
    window = text[-PAPER_WINDOW:]
    assert read["paper"].side == plain(text, {side: answer(side) in window for side in SIDES}), text
    assert read["reference"].side == plain(text, {side: f"[[{side}]]" in text for side in SIDES}), text
    strict = read["strict"].side
    if strict is not None:
        assert text.rstrip().endswith(answer(strict)), text
        assert read["paper"].side in (strict, None), text
        assert read["reference"].side in (strict, None), text
    judgment = parse(text)
    assert len(set(judgment.problems)) == len(judgment.problems), text
    if well_formed(judgment):
        assert judgment.answer == f"[[{strict}]]", text


def check_quoted(soup: str, section: str, side: Side) -> None:
    """Whatever a section quotes, its judgment's verdict stands or is refused: it never becomes the quoted one."""
    closed = soup.replace(f"<{section}>", "").replace(f"</{section}>", "")
    if f"<{section}>" in closed or f"</{section}>" in closed:
        return
    body = f"<{section}>{closed}</{section}>"
    if section in ("quote_A", "summary_B"):
        body = f"<eval>{body}</eval>"
    assert read_verdict(f"{body}\n{answer(side)}", "strict").side in (side, None), body
    if "eval>" not in closed:
        assert read_verdict(body, "strict").side is None, body


def main() -> int:
    """Run as many traces as asked for; 0 when every rule holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    started = time.perf_counter()
    longest = 0
    for number in range(arguments.traces):
        soup = "".join(rng.choices(MARKS, k=rng.randint(0, 14)))
        if number % 10_000 == 0:
            soup *= rng.randint(1, 20_000)
        if number % 2:
            check_quoted(soup, rng.choice(("eval", "solution", "think", "quote_A", "summary_B")), rng.choice(SIDES))
        else:
            check(soup, rng.random() < 0.5)
        longest = max(longest, len(soup))
    seconds = time.perf_counter() - started
    print(f"{arguments.traces:,} traces, up to {longest:,} characters, every rule held, {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
