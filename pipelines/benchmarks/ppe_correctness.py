"""PPE's correctness preferences (arXiv 2410.14872): one model's checked answers, a right one against a wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    mean_of,
    observed_means,
)
from pipelines.benchmarks.rows import Row, read
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

SUBSETS = ("MMLU-Pro", "MATH", "GPQA", "IFEval", "MBPP-Plus")
_FIELDS = ("prompt", "scores", "sampled_conflict_pairs", "response_1")


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, ``response_1`` to ``response_32``, their ``scores`` and ``sampled_conflict_pairs``.

    A pair names two responses, counted from 0, of which one is right. Of a file or folder, a file's name tells which of
    the five sets it holds, for example ``PPE-GPQA-Best-of-K.parquet`` or ``mmlu_pro_best_of_k.jsonl``.
    """
    return [comparison for subset, row in _rows(location) for comparison in _comparisons(subset, row)]


def _rows(location: str | None) -> Iterator[tuple[str, Row]]:
    if location is None:
        for subset in SUBSETS:
            hub = f"lmarena-ai/PPE-{subset}-Best-of-K"
            yield from ((subset, row) for row in read("ppe_correctness", None, [_FIELDS], hub, ["train"]))
    else:
        for row in read("ppe_correctness", location, [_FIELDS], None, ["train"]):
            yield _subset_of(row), row


def _subset_of(row: Row) -> str:
    """The set that the row's file or dataset is named after."""
    for name in (row.stem, row.place):
        plain = re.sub(r"\W|_", "", name.rpartition("/")[2]).lower()
        for subset in SUBSETS:
            if subset.replace("-", "").lower() in plain:
                return subset
    raise DataError(f"{row.place}: its file's name tells none of {', '.join(SUBSETS)}; rename it after its set")


def _comparisons(subset: str, row: Row) -> Iterator[Comparison]:
    scores, pairs = row.fields["scores"], row.fields["sampled_conflict_pairs"]
    item = f"{subset}/{row.identifier('question_id')}"
    prompt = (Message("user", text_field(row.fields, "prompt", row.place)),)
    if not isinstance(scores, list) or not isinstance(pairs, list):
        raise DataError(f"{row.place}: 'scores' and 'sampled_conflict_pairs' must be lists")
    for number, pair in enumerate(pairs):
        first, second = _positions(pair, len(scores), row.place)
        if scores[first] == scores[second]:
            raise DataError(
                f"{row.place}, field 'sampled_conflict_pairs': responses {first} and {second} score the same"
            )
        better, worse = (first, second) if scores[first] > scores[second] else (second, first)
        chosen, rejected = (text_field(row.fields, f"response_{index + 1}", row.place) for index in (better, worse))
        # With its number, for nothing says that a pair is sampled once.
        named = PreferencePair(f"{item}/{number}", "ppe_correctness", subset, prompt, chosen, rejected)
        yield Comparison(named, subset, item, subset)


def _positions(pair: object, count: int, place: str) -> tuple[int, int]:
    is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(index) is int for index in pair)
    if not is_pair or not all(0 <= index < count for index in pair):  # type: ignore[attr-defined]
        raise DataError(
            f"{place}, field 'sampled_conflict_pairs': {pair!r} is no pair of positions among {count} responses"
        )
    return pair[0], pair[1]  # type: ignore[index]


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are the five sets; a unit is a question, whose pairs are not independent."""
    return observed_means(rows, lambda row: row.subset)


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``subsets``: right of each set's pairs; ``average``: their plain mean."""
    subsets = {name: np.asarray(means[name])[..., 0] for name in SUBSETS if name in means}
    return {"subsets": subsets, "average": mean_of(subsets.values())}


BENCHMARK = Benchmark("ppe_correctness", "PPE correctness", load, observe, combine)
