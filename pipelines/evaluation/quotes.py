"""Where an evaluation's quotes stand in the answers they quote."""

from __future__ import annotations

import re
from collections import Counter

from actors.messages import Side
from actors.verifier.trace import parse

Span = tuple[int, int]
"""Start and end of a passage, in characters."""

_MARKS = " \t\n\"'`“”‘’«»"
_ELLIPSIS = re.compile(r"\[?\.\.\.\]?|…")
_LEAST = 3
"""Characters a quote needs: shorter ones are found anywhere."""


def quotes(text: str, side: Side) -> list[str]:
    """What a judgment quotes of one side, in order: the contents of its quote tags."""
    evaluation = parse(text).evaluation or ""
    found = []
    start = evaluation.find(f"<quote_{side}>")
    while start >= 0 and (end := evaluation.find(f"</quote_{side}>", start)) >= 0:
        found.append(evaluation[start + len("<quote_A>") : end])
        start = evaluation.find(f"<quote_{side}>", end)
    return found


def places(quoted: str, answer: str) -> list[Span]:
    """Passages of ``answer`` that a quote repeats word for word; case, white space and outer marks do not matter.

    A quote with an ellipsis is looked for piece by piece, each after the one before. Empty if a piece is not there.
    """
    return _places(quoted, *_folded(answer))


def _places(quoted: str, plain: str, origin: list[int]) -> list[Span]:
    spans: list[Span] = []
    after = 0
    for piece in _ELLIPSIS.split(quoted):
        wanted = _folded(piece.strip().strip(_MARKS))[0].strip()
        if len(wanted) < _LEAST:
            continue
        start = plain.find(wanted, after)
        if start < 0:
            return []
        after = start + len(wanted)
        spans.append((origin[start], origin[after - 1] + 1))
    return spans


def _folded(text: str) -> tuple[str, list[int]]:
    """Lower case with single blanks, and for each character the index it comes from."""
    plain: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        folded = " " if character.isspace() else character.lower()
        if folded == " " and plain and plain[-1] == " ":
            continue
        plain.append(folded if len(folded) == 1 else character)
        origin.append(index)
    return "".join(plain), origin


def marks(text: str, answer: str, side: Side) -> tuple[list[Span], int]:
    """Passages of ``answer`` that a judgment quotes, joined where they touch, and how many quotes are not in it."""
    spans: list[Span] = []
    missing = 0
    folded = _folded(answer)
    # A quote that is repeated marks the same passages again; it is looked for once.
    for quoted, count in Counter(quotes(text, side)).items():
        found = _places(quoted, *folded)
        spans += found
        missing += count * (not found)
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined, missing
