"""PandaLM's human-annotated test set: two responses and three annotators' verdicts (0 tie, 1 or 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, text_field, validate
from pipelines.data.sources import RowDropped

HUB = None
LEFT_OUT = ()
FIRST_BETTER = {"annotator1": 1, "annotator2": 1, "annotator3": 1}
ANNOTATORS = ("annotator1", "annotator2", "annotator3")


def recognises(row: Mapping[str, Any]) -> bool:
    """An instruction, two responses and the annotators."""
    return {"instruction", "response1", "response2", *ANNOTATORS} <= row.keys()


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """The response that at least two of three annotators prefer is the chosen one."""
    votes = []
    for name in ANNOTATORS:
        if row.get(name) not in (0, 1, 2) or isinstance(row[name], bool):
            raise DataError(f"{place}, field {name!r}: {row.get(name)!r} is not 0 (tie), 1 or 2")
        votes.append(row[name])
    winner, count = Counter(votes).most_common(1)[0]
    if winner == 0 or count < 2:
        raise RowDropped("no majority for one response")
    parts = [text_field(row, "instruction", place), text_field(row, "input", place, default="")]
    fields = {
        "id": f"pandalm/{number}",
        "source": "pandalm",
        "domain": "chat",
        "prompt": "\n\n".join(part for part in parts if part),
        "chosen": text_field(row, f"response{winner}", place),
        "rejected": text_field(row, f"response{3 - winner}", place),
    }
    return validate(fields, place=place, number=number)
