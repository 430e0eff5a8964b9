"""GSM8K model solutions: a question and several models' solutions, each marked right or wrong.

One right and one wrong solution make the pair, drawn by a hash of the question, so that a row gives the same pair in
whatever file it stands. The files are in the repository openai/grade-school-math.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, text_field, validate
from pipelines.data.sources import RowDropped

HUB = None
LEFT_OUT = ()
FIRST_BETTER: dict[str, Any] = {}


def recognises(row: Mapping[str, Any]) -> bool:
    """A question, its solution, and at least one model's."""
    return {"question", "ground_truth"} <= row.keys() and any(_is_solution(value) for value in row.values())


def _is_solution(value: Any) -> bool:
    return isinstance(value, Mapping) and "is_correct" in value


def pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """A right and a wrong solution."""
    question = text_field(row, "question", place)
    by_truth: dict[bool, list[str]] = {True: [], False: []}
    for model, value in sorted(row.items()):
        if _is_solution(value):
            if not isinstance(value["is_correct"], bool):
                raise DataError(f"{place}, field '{model}.is_correct': must be true or false")
            by_truth[value["is_correct"]].append(text_field(value, "solution", f"{place}, field {model!r}"))
    if not by_truth[True] or not by_truth[False]:
        raise RowDropped("not both a right and a wrong solution")
    digest = hashlib.sha256(question.encode()).digest()
    chosen, rejected = (by_truth[truth][digest[truth] % len(by_truth[truth])] for truth in (True, False))
    fields = {
        "id": f"gsm8k/{number}",
        "source": "grade-school-math",
        "domain": "math",
        "prompt": question,
        "chosen": chosen,
        "rejected": rejected,
    }
    return validate(fields, place=place, number=number)
