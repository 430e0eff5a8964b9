"""Official figures from a per-comparison log alone:

    python -m pipelines.evaluation.rescore --benchmark rm_bench --log comparisons.jsonl [--as-published]

A row needs ``benchmark``, ``subset``, ``item``, ``group``, ``chosen_style``, ``rejected_style`` and ``score``
(docs/evaluation.md says what they hold). Rows that also name their ``comparison`` and ``order`` are joined by them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from actors.messages import JudgeMode
from pipelines.benchmarks.benchmark import Benchmark, Score, find, names, score
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError


def read_scores(path: str | Path, benchmark: Benchmark) -> list[Score]:
    """The rows of a log that belong to a benchmark.

    Raises:
        DataError: no such file, a malformed row, or none of this benchmark.

    """
    scores = []
    others: set[str] = set()
    for number, row in rows_of(path):
        place = f"{path}, row {number}"
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: a row must be an object, not {type(row).__name__}")
        if row.get("benchmark") != benchmark.name:
            others.add(str(row.get("benchmark")))
            continue
        if "vote" in row:
            raise DataError(f"{place}: this is a log of single votes; give the comparisons.jsonl beside it")
        scores.append(score_of(row, benchmark, place))
    if not scores:
        found = f" (it has {', '.join(sorted(others))})" if others else ""
        raise DataError(f"{path} has no comparison with benchmark={benchmark.name!r}{found}")
    return scores


def score_of(row: Mapping[str, Any], benchmark: Benchmark, place: str) -> Score:
    """A row of a benchmark's per-comparison log.

    Raises:
        DataError: a field is missing or holds something else; names place and field.

    """
    for field in ("subset", "item", "score"):
        if row.get(field) is None:
            raise DataError(f"{place}: field {field!r} is missing")
    value = row["score"]
    mode = row.get("mode") or "pairwise"
    if mode not in get_args(JudgeMode):
        raise DataError(f"{place}, field 'mode': {mode!r} is none of {', '.join(get_args(JudgeMode))}")
    graded = mode != "pairwise"
    if not isinstance(value, int | float) or not (math.isfinite(value) if graded else value in (0.0, 0.5, 1.0)):
        raise DataError(f"{place}, field 'score': {value!r} must be 0, 0.5 or 1")
    return Score(
        subset=str(row["subset"]),
        item=str(row["item"]),
        score=float(value),
        group=None if row.get("group") is None else str(row["group"]),
        chosen_style=_style(row, "chosen_style", benchmark, place),
        rejected_style=_style(row, "rejected_style", benchmark, place),
        comparison=None if row.get("comparison") is None else str(row["comparison"]),
        order=row.get("order"),
        mode=cast(JudgeMode, mode),
    )


def _style(row: Mapping[str, Any], field: str, benchmark: Benchmark, place: str) -> int | None:
    value = row.get(field)
    if value is None or benchmark.matrix is None:
        return None
    known = range(len(benchmark.matrix.styles))
    if value not in known:
        raise DataError(f"{place}, field {field!r}: {value!r} must be one of {', '.join(map(str, known))}, or null")
    return int(value)


def partial(benchmark: Benchmark, scores: Iterable[Score]) -> str | None:
    """What to say where a log covers only a part of the published set."""
    items = len({(row.subset, row.group or row.item) for row in scores})
    if benchmark.items is None or items >= benchmark.items:
        return None
    return f"{items:,} of the {benchmark.items:,} items of {benchmark.title}: these figures are of a part of it"


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True, choices=names())
    parser.add_argument("--log", required=True, help=".jsonl or .parquet, one row per comparison")
    slips = ", ".join(name for name in names() if find(name).combine_as_published is not None)
    parser.add_argument(
        "--as-published",
        action="store_true",
        help=f"with the slip of the published evaluation, which {slips} has",
    )
    arguments = parser.parse_args()
    benchmark = find(arguments.benchmark)
    try:
        scores = read_scores(arguments.log, benchmark)
        figures = score(benchmark.as_published() if arguments.as_published else benchmark, scores)
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    note = partial(benchmark, scores)
    if note:
        sys.stderr.write(f"note: {note}\n")
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
