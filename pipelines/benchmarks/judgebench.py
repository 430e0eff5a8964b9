"""JudgeBench (arXiv 2410.12784): pairs of one model's answers of which one is objectively right, in two orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import Benchmark, Comparison, Figures, Observations, Score, weighted
from pipelines.benchmarks.rows import read
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

_FIELDS = ("question", "response_A", "response_B", "label", "source")


def load(location: str | None) -> list[Comparison]:
    """Rows with ``question``, ``response_A``, ``response_B``, ``label`` (``A>B`` or ``B>A``) and ``source``."""
    comparisons = []
    for row in read("judgebench", location, [_FIELDS], "ScalerLab/JudgeBench", ["gpt", "claude"]):
        label = row.fields["label"]
        if label not in ("A>B", "B>A"):
            raise DataError(f"{row.place}, field 'label': {label!r} must be 'A>B' or 'B>A'")
        better, worse = ("response_A", "response_B") if label == "A>B" else ("response_B", "response_A")
        source = text_field(row.fields, "source", row.place)
        item = f"{row.stem}/{row.number}" if row.fields.get("pair_id") is None else row.identifier("pair_id")
        pair = PreferencePair(
            id=item,
            source="judgebench",
            domain=source,
            prompt=(Message("user", text_field(row.fields, "question", row.place)),),
            chosen=text_field(row.fields, better, row.place),
            rejected=text_field(row.fields, worse, row.place),
        )
        comparisons.append(Comparison(pair, source, item, _category(source)))
    return comparisons


def _category(source: str) -> str:
    """The benchmark's four: knowledge, reasoning, math, coding."""
    known = {"livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}
    return known.get(source, "knowledge")


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are sources; a unit is a pair: whether the official rule and the stricter one count it as right."""
    items: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        items.setdefault((row.subset, row.item), []).append(row.score)
    found: dict[str, dict[str, np.ndarray]] = {}
    for (source, item), scores in items.items():
        if len(scores) > 2:
            raise DataError(f"JudgeBench item {item!r} of {source!r} has {len(scores)} rows: give one for each order")
        # Officially +1 for right, -1 for wrong, 0 for a tie or nothing readable; a pair is right above 0.
        official = sum(2 * value - 1 for value in scores) > 0
        both = len(scores) == 2
        found.setdefault(source, {})[item] = np.array(
            [[float(official), 1.0], [float(both and min(scores) == 1), float(both)]]
        )
    return found


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``accuracy`` by the official rule; ``consistent_accuracy``: right in both orders."""
    strict = {name: value[..., 1:] for name, value in means.items()}
    return {"accuracy": weighted(means, sizes), "consistent_accuracy": weighted(strict, sizes)}


BENCHMARK = Benchmark("judgebench", "JudgeBench", load, observe, combine, unread_score=0.5, items=620)
