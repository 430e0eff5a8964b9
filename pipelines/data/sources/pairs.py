"""The project's own form, and those of Alpaca, ShareGPT and axolotl: a question, and responses that are texts.

The responses are ``chosen`` and ``rejected``, or two and a label. With a mapping of columns this is the generic source:
any JSON lines or parquet file whose columns hold these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.question import QUESTIONS, TEXTUAL, question_of, response_of
from pipelines.data.schema import PreferencePair, validate

HUB = None
LEFT_OUT = ()
FIRST_BETTER = {"label": "A"}
_QUESTIONS = set(QUESTIONS)
_RESPONSES = ("chosen", "rejected", "response_a", "response_b")


def recognises(row: Mapping[str, Any]) -> bool:
    """A question, and responses that are texts or single messages under one of the two pairs of names."""
    named = ("chosen", "rejected") if "chosen" in row else ("response_a", "response_b")
    return bool(row.keys() & _QUESTIONS) and all(isinstance(row.get(name), str | Mapping) for name in named)


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The row, checked, with its question from all the columns that state parts of it."""
    if row.keys() & TEXTUAL != {"prompt"}:
        row = {**row, "prompt": question_of(row, place) or None}
    answers = {
        name: response_of(row[name], f"{place}, field {name!r}")
        for name in _RESPONSES
        if isinstance(row.get(name), Mapping)
    }
    return validate({**row, **answers} if answers else row, place=place, number=number)
