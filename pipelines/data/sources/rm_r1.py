"""The four published RM-R1 sets: the whole prompt in ``context_messages``, the label in ``winner``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.published import is_published, published_pair
from pipelines.data.schema import PreferencePair

HUB = "gaotang/RM-R1-Entire-RLVR-Train"
LEFT_OUT = ()
FIRST_BETTER = {"winner": "model_a"}


def recognises(row: Mapping[str, Any]) -> bool:
    """A conversation and a winner."""
    return is_published(row)


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The prompt as it is published; the responses stand inside it."""
    return published_pair(row, place, number)
