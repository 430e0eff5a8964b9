"""Math-Step-DPO-10K: a problem, the steps both solutions begin with, and a right and a wrong way to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import PreferencePair, text_field, validate

HUB = "xinlai/Math-Step-DPO-10K"
LEFT_OUT = ()
FIRST_BETTER: dict[str, Any] = {}


def recognises(row: Mapping[str, Any]) -> bool:
    """The two solutions of the set."""
    return {"prompt", "full_chosen", "full_rejected"} <= row.keys()


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """Each response is the shared first steps and one way on."""
    begun = text_field(row, "initial_reason_steps", place, default="")
    fields = {
        "id": f"math_step_dpo/{number}",
        "source": "math_step_dpo",
        "domain": "math",
        "prompt": text_field(row, "prompt", place),
        "chosen": begun + text_field(row, "full_chosen", place),
        "rejected": begun + text_field(row, "full_rejected", place),
    }
    return validate(fields, place=place, number=number)
