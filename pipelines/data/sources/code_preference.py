"""Code-Preference-Pairs: a programming task, working code, and the same code with a bug."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import PreferencePair, text_field, validate

HUB = "Vezora/Code-Preference-Pairs"
LEFT_OUT = ()
FIRST_BETTER: dict[str, Any] = {}


def recognises(row: Mapping[str, Any]) -> bool:
    """The three columns of the set."""
    return {"input", "accepted", "rejected"} <= row.keys()


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The accepted answer is the chosen one."""
    fields = {
        "id": f"code_preference/{number}",
        "source": "code_preference",
        "domain": "code",
        "prompt": text_field(row, "input", place),
        "chosen": text_field(row, "accepted", place),
        "rejected": text_field(row, "rejected", place),
    }
    return validate(fields, place=place, number=number)
