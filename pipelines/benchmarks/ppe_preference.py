"""PPE's human preferences (arXiv 2410.14872): votes of Chatbot Arena between two models' answers in many languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    observed_means,
    weighted,
)
from pipelines.benchmarks.rows import Row, read
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

_FIELDS = ("question_id", "prompt", "response_1", "response_2", "winner", "language")
_HUB = "lmarena-ai/PPE-Human-Preference-V1"
_SIDES = {"model_a": ("response_1", "response_2"), "model_b": ("response_2", "response_1")}
_TIES = ("tie", "tie (bothbad)")


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, ``response_1`` (of ``model_a``), ``response_2``, ``winner`` and ``language``; no ties."""
    comparisons = []
    for row in read("ppe_preference", location, [_FIELDS], _HUB, ["test"]):
        winner = row.fields["winner"]
        if winner in _TIES:
            continue
        if winner not in _SIDES:
            raise DataError(f"{row.place}, field 'winner': {winner!r} is none of {', '.join((*_SIDES, *_TIES))}")
        better, worse = _SIDES[winner]
        language = text_field(row.fields, "language", row.place)
        # With the row's number, for nothing says that a question is asked once.
        item = f"{row.fields['question_id']}/{row.number}"
        pair = PreferencePair(
            id=item,
            source="ppe_preference",
            domain=language,
            prompt=(Message("user", text_field(row.fields, "prompt", row.place)),),
            chosen=text_field(row.fields, better, row.place),
            rejected=text_field(row.fields, worse, row.place),
        )
        comparisons.append(Comparison(pair, language, item, _category(row)))
    return comparisons


def _category(row: Row) -> str:
    """By the difficulty that the published rows state."""
    known = {"hard_prompt": "hard", "easy_prompt": "easy"}
    return next((name for field, name in known.items() if row.fields.get(field)), "other")


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are languages, units votes."""
    return observed_means(rows, lambda row: row.subset)


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``accuracy``: agreement with the voters over all pairs that are no ties."""
    return {"accuracy": weighted(means, sizes)}


# Without the size of the published set: it has 16,038 rows, and how many of them are no ties is not stated.
BENCHMARK = Benchmark("ppe_preference", "PPE human preference", load, observe, combine)
