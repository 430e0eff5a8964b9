"""The project's own form: a prompt, and ``chosen`` and ``rejected`` or two responses and a label.

With a mapping of columns this is the generic source: any JSON lines or parquet file whose columns hold these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import PreferencePair, validate

HUB = None
LEFT_OUT = ()


def recognises(row: Mapping[str, Any]) -> bool:
    """A prompt, and responses that are text under one of the two pairs of names."""
    named = ("chosen", "rejected") if "chosen" in row else ("response_a", "response_b")
    return "prompt" in row and all(isinstance(row.get(name), str) for name in named)


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The row, checked."""
    return validate(row, place=place, number=number)
