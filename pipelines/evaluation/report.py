"""The report of an evaluation: Python selects, and ``report.html.jinja`` beside this file draws."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.messages import Side
from actors.verifier.trace import LETTERS
from pipelines.benchmarks.benchmark import Comparison
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError
from pipelines.evaluation.compare import compare
from pipelines.evaluation.judging import listed
from pipelines.evaluation.quotes import marks
from pipelines.evaluation.tables import flat
from pipelines.loop.records import question_text
from pipelines.reporting.pages import write_page
from pipelines.reporting.report_traces import TRACE_CHARACTERS

SHOWN = (
    *("benchmark", "subset", "category", "comparison", "order", "vote", "label", "verdict", "cause", "tokens"),
    *("finish_reason", "verdict_logprob", "prompt_tokens", "text"),
)
"""Fields of a judgment that the page shows, besides the question, the answers, the marks and whether it flipped."""


def write_evaluation_report(
    folder: Path,
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    others: Sequence[str] = (),
    *,
    most: int = 400,
) -> Path:
    """Write ``report.html`` of an evaluation's folder, whole or not at all, and return its path.

    ``comparisons`` is by benchmark and comparison; ``others`` are folders of evaluations to show beside this one;
    ``most`` judgments are chosen for reading.

    Raises:
        DataError: one of the other folders has no finished evaluation.

    """
    data = report_data(folder, results, rows, comparisons, others, most=most)
    return write_page(folder / "report.html", "evaluation/report.html.jinja", data)


def report_data(
    folder: Path,
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    others: Sequence[str] = (),
    *,
    most: int = 400,
) -> dict[str, Any]:
    """Everything the page shows, as plain data."""
    others_read = [read_evaluation(other) for other in others]
    own = read_evaluation(folder)
    shown = {key: value for key, value in results.items() if key != "benchmarks"}
    return {
        **shown,
        "benchmarks": {
            name: {**result, "table": headline_table(name, results, [other[0] for other in others_read])}
            for name, result in results["benchmarks"].items()
        },
        "compared": differences(own, others_read),
        "judgments": reading(rows, comparisons, most),
    }


def read_evaluation(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``results.json`` and ``comparisons.jsonl`` of an evaluation.

    Raises:
        DataError: they are not there, or damaged.

    """
    place = Path(folder)
    try:
        results = json.loads((place / "results.json").read_text(encoding="utf-8"))
        rows = [dict(row) for _, row in rows_of(place / "comparisons.jsonl")]
        results["benchmarks"], results["label"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"evaluate.compare: {place} holds no finished evaluation ({error}); give a folder of "
            "outputs/<run>/evaluations/"
        ) from error
    return results, rows


def headline_table(name: str, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``{"columns", "rows"}`` of a benchmark's official figures: this model, those compared, those published."""
    mine = flat(own["benchmarks"][name]["official"])
    rows: list[dict[str, Any]] = []
    for evaluation, kind in [(own, "this"), *((other, "compared") for other in others)]:
        if name not in evaluation["benchmarks"]:
            continue
        result = evaluation["benchmarks"][name]
        values, bounds = flat(result["official"]), flat(result["official_ci"])
        cells = [{"value": values.get(key), "ci": bounds.get(key)} for key in mine]
        rows.append({"name": evaluation["label"], "kind": kind, "cells": cells, "cost": result.get("cost")})
    for model, figures in own["benchmarks"][name]["published"].items():
        cells = [{"value": figures.get(key), "ci": None} for key in mine]
        rows.append({"name": model, "kind": "published", "cells": cells, "cost": None})
    return {"columns": [key.split(".")[-1].replace("_", " ") for key in mine], "rows": rows}


Evaluation = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""Results and per-comparison rows."""


def differences(own: Evaluation, others: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """This model against each of the others on each benchmark both judged."""
    found = []
    for results, rows in others:
        for name in own[0]["benchmarks"]:
            parts = [[row for row in part if row["set"] == name] for part in (rows, own[1])]
            difference = compare(*parts)
            if difference is not None:
                found.append({"benchmark": name, "other": results["label"], **difference})
    return found


def reading(
    rows: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    most: int,
    characters: int = TRACE_CHARACTERS,
) -> dict[str, Any]:
    """Judgments to read: ``{"rows", "shown", "total"}``; all of a pair or none, an even choice of every benchmark."""
    pairs: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        pairs.setdefault(row["benchmark"], {}).setdefault(row["comparison"], []).append(row)
    chosen: list[dict[str, Any]] = []
    for index, (name, members) in enumerate(sorted(pairs.items(), key=lambda entry: len(entry[1]))):
        room, space = (left // (len(pairs) - index) for left in (most - len(chosen), characters))
        for key in sorted(members, key=lambda key: (zlib.crc32(key.encode()), key)):
            pair = comparisons[name][key].pair
            size = len(question_text(pair)) + len(pair.chosen) + len(pair.rejected)
            size += sum(len(row["text"]) for row in members[key])
            if len(members[key]) <= room and size <= space:
                room, space, characters = room - len(members[key]), space - size, characters - size
                chosen += _readable(members[key], comparisons[name][key])
    chosen.sort(key=lambda row: (row["benchmark"], row["subset"], row["comparison"], row["order"], row["vote"]))
    return {"rows": chosen, "shown": len(chosen), "total": len(rows)}


def _shown(comparison: Comparison, label: Side) -> tuple[str, str]:
    """What was shown as A and as B; of a list all but the first, of a rating nothing, as B."""
    pair = comparison.pair
    if comparison.mode == "pointwise":
        return pair.chosen, ""
    if comparison.mode == "listwise":
        first, *rest = listed(comparison, label)
        return first, "\n\n".join(map("{}: {}".format, LETTERS[1:], rest))
    return (pair.chosen, pair.rejected) if label == "A" else (pair.rejected, pair.chosen)


def _readable(rows: Sequence[Mapping[str, Any]], comparison: Comparison) -> list[dict[str, Any]]:
    """The judgments of one pair with its texts, the quoted passages, and whether order changed the verdict."""
    pair = comparison.pair
    by_vote: dict[int, set[bool]] = {}
    for row in rows:
        if row["verdict"] is not None:
            by_vote.setdefault(row["vote"], set()).add(row["verdict"] == row["label"])
    readable = []
    for row in rows:
        first, second = _shown(comparison, row["label"])
        marked = {side: marks(row["text"], answer, side) for side, answer in (("A", first), ("B", second))}  # type: ignore[arg-type]
        readable.append(
            {
                **{name: row[name] for name in SHOWN},
                "question": question_text(pair),
                "response_a": first,
                "response_b": second,
                "marks_a": marked["A"][0],
                "marks_b": marked["B"][0],
                "quotes_missing": marked["A"][1] + marked["B"][1],
                "flipped": len(by_vote.get(row["vote"], ())) == 2,
            }
        )
    return readable
