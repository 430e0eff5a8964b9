"""HelpSteer3's preferences: a conversation, two responses, and by how much people prefer one (-3 to 3, 0 a tie)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, text_field, validate
from pipelines.data.sources import RowDropped

HUB = "nvidia/HelpSteer3"
LEFT_OUT = ()
FIRST_BETTER = {"overall_preference": -3}


def recognises(row: Mapping[str, Any]) -> bool:
    """The four columns that state the preference."""
    return {"context", "response1", "response2", "overall_preference"} <= row.keys()


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The preferred response is the chosen one: the first below 0, the second above."""
    preference = row.get("overall_preference")
    if not isinstance(preference, int) or isinstance(preference, bool) or abs(preference) > 3:
        raise DataError(
            f"{place}, field 'overall_preference': {preference!r} is not one of -3 (the first response is much better) "
            "to 3 (the second is)"
        )
    if preference == 0:
        raise RowDropped("neither response is preferred")
    chosen, rejected = (2, 1) if preference > 0 else (1, 2)
    fields = {
        "id": f"helpsteer3/{number}",
        "source": "helpsteer3",
        "domain": text_field(row, "domain", place, default="chat"),
        "prompt": row.get("context"),
        "chosen": text_field(row, f"response{chosen}", place),
        "rejected": text_field(row, f"response{rejected}", place),
    }
    return validate(fields, place=place, number=number)
