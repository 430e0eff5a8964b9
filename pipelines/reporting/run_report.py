"""The run's report: one HTML file, no network, with the results, the curves, and traces to read and filter.

Python reads and selects; the page (``report.html.jinja`` beside this file) draws.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.jsonl import lines_of, row_of
from pipelines.reporting.pages import write_page
from pipelines.reporting.panels import drawn, unplaced
from pipelines.reporting.report_traces import STAGES, select_traces

_CURVE_POINTS = 400
_UNDER_WAY = {"max_rows": 600, "max_characters": 1_000_000}
_HEADLINE = (
    ("accuracy", "accuracy", "share"),
    ("consistent_accuracy", "both orders right", "share"),
    ("flip_rate", "flips with order", "share"),
    ("parse_rate", "verdict read", "share"),
    ("strict_parse_rate", "verdict last", "share"),
    ("share_a", "says A", "share"),
    ("mean_tokens", "tokens", "number"),
    ("n", "pairs", "count"),
)

Series = dict[str, dict[str, list[tuple[float, float]]]]
"""Stage -> metric -> points (step, value)."""


def write_report(run_directory: Path, under_way: bool = False) -> Path:
    """Write ``report.html`` of a run from what is there, and return its path; see :func:`report_data`.

    The file appears whole or not at all.
    """
    data = report_data(run_directory, under_way)
    return write_page(run_directory / "report.html", "reporting/report.html.jinja", data)


def report_data(run_directory: Path, under_way: bool = False) -> dict[str, Any]:
    """Everything the page shows, as plain data.

    Reads ``summary.json``, ``config.yaml``, ``metrics.jsonl`` and ``traces/*.parquet``; what is missing or damaged is
    named in the report. While the run is ``under_way`` only the latest of many traces are read, so that its pages take
    no longer as it goes on.
    """
    notes = _warnings(run_directory / "stages")
    summary = _read_summary(run_directory / "summary.json", notes)
    config = run_directory / "config.yaml"
    files = sorted((run_directory / "traces").glob("*.parquet"))
    traces = select_traces(latest(files), notes, **_UNDER_WAY) if under_way else select_traces(files, notes)
    series = read_metrics(run_directory / "metrics.jsonl", notes)
    if not traces["rows"]:
        notes.append("No traces yet: none have been written to traces/*.parquet.")
    return {
        "under_way": under_way,
        "written": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "run": str(summary.get("run") or run_directory.name),
        "recipe": summary.get("recipe"),
        "seed": summary.get("seed"),
        "seconds": summary.get("seconds") or {},
        "data": summary.get("data") or {},
        "config": config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
        "headline": headline(summary),
        "series": {
            stage: {name: thin(points, _CURVE_POINTS) for name, points in metrics.items()}
            for stage, metrics in series.items()
        },
        "panels": [chart for stage, metrics in series.items() for chart in charts(stage, metrics)],
        "traces": traces,
        "notes": notes,
    }


def charts(stage: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The panels of a stage that have numbers, in order; last, without a section, what no panel draws."""
    known = list(names)
    found = [
        {
            "stage": stage,
            "section": section.title,
            "title": panel.title,
            "unit": panel.unit,
            "stacked": panel.stacked,
            "lines": lines,
        }
        for section, panel, lines in drawn(stage, known)
    ]
    other = {"stage": stage, "section": None, "unit": "number", "stacked": False}
    return found + [other | {"title": name, "lines": [name]} for name in unplaced(stage, known)]


def latest(files: Sequence[Path], count: int = 4) -> list[Path]:
    """Files of held-out judgments, and of each stage those of its last steps: names end in the step."""
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_kind[file.stem.rpartition("-")[0] if file.stem[-1:].isdigit() else file.stem].append(file)
    return sorted(file for mine in by_kind.values() for file in sorted(mine)[-count:])


def _warnings(folder: Path) -> list[str]:
    """What the stages warned of; a file that cannot be read is left out, as it is only the note of a warning."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            warnings = json.loads(file.read_text(encoding="utf-8"))["warnings"]
            found += [f"{file.stem}: {warning}" for warning in warnings]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _read_summary(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append("No results yet: summary.json is written when a stage has been evaluated.")
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"summary.json cannot be read ({error}).")
        return {}
    if isinstance(summary, dict):
        return summary
    notes.append("summary.json does not hold an object.")
    return {}


def headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The table of results: ``{"columns": [label], "rows": [{"stage", "accuracy", "cells": [{"text", "detail"}]}]}``.

    One row for each of before, distill and rl that was evaluated; one accuracy column for each domain, one for each
    observation in ``extras``, and only metrics that some row has. ``detail`` is the 95% interval where the summary
    states one, and under the share of verdicts that could be read, how often which cause prevented it.
    """
    rows = {stage: summary[stage] for stage in STAGES if isinstance(summary.get(stage), Mapping) and summary[stage]}
    domains = sorted({str(domain) for row in rows.values() for domain in row.get("by_domain") or {}})
    extras = sorted({str(name) for row in rows.values() for name in row.get("extras") or {}})
    metrics = [entry for entry in _HEADLINE if any(row.get(entry[0]) is not None for row in rows.values())]
    split = 1 if metrics and metrics[0][0] == "accuracy" else 0
    labels = [label for _, label, _ in metrics]
    table = []
    for stage, row in rows.items():
        cells = [_cell(row.get(name), kind, _detail(row, name)) for name, _, kind in metrics]
        parts = [(row.get("by_domain") or {}).get(domain) or {} for domain in domains]
        by_domain = [_cell(part.get("accuracy"), "share", _detail(part, "accuracy")) for part in parts]
        observed = [_cell((row.get("extras") or {}).get(name), "share") for name in extras]
        cells = [*cells[:split], *by_domain, *cells[split:], *observed]
        table.append({"stage": stage, "accuracy": _number(row.get("accuracy")), "cells": cells})
    columns = [*labels[:split], *domains, *labels[split:], *(name.replace("_", " ") for name in extras)]
    return {"columns": columns, "rows": table}


def _detail(row: Mapping[str, Any], name: str) -> str:
    if name == "parse_rate" and isinstance(row.get("parse_failures"), Mapping):
        return ", ".join(f"{count} {str(cause).replace('_', ' ')}" for cause, count in row["parse_failures"].items())
    interval = row.get(f"{name}_ci")
    bounds = [_number(bound) for bound in interval] if isinstance(interval, list | tuple) else []
    return "–".join(f"{100 * bound:.1f}" for bound in bounds if bound is not None)


def _cell(value: Any, kind: str, detail: str = "") -> dict[str, str]:
    number = _number(value)
    if number is None:
        return {"text": "–", "detail": ""}
    text = {"share": f"{100 * number:.1f}%", "count": f"{number:,.0f}"}.get(kind, f"{number:,.1f}")
    return {"text": text, "detail": detail}


def _number(value: Any) -> float | None:
    """A finite number, or None; reads the strings that stand for NaN and infinity in ``metrics.jsonl``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_metrics(path: Path, notes: list[str]) -> Series:
    """Read ``metrics.jsonl``; where a step occurs again (a resumed stage), the later line counts.

    Lines that cannot be read and values that are not finite are left out and counted in ``notes``.
    """
    if not path.exists():
        notes.append("No learning curves yet: metrics.jsonl is not there.")
        return {}
    values: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    broken = 0
    not_finite: dict[str, int] = defaultdict(int)
    for _, line in lines_of(path):
        try:
            entry = row_of(line)
            stage, step, metrics = str(entry["stage"]), int(entry["step"]), dict(entry["metrics"])
        except (ValueError, KeyError, TypeError):
            broken += 1
            continue
        for name, value in metrics.items():
            number = _number(value)
            if number is None:
                not_finite[f"{stage} {name}"] += 1
            else:
                values[stage][name][step] = number
    if broken:
        notes.append(f"metrics.jsonl: {broken} lines cannot be read and are left out.")
    for name, count in sorted(not_finite.items()):
        notes.append(f"{name}: {count} values are not finite numbers and are left out of the curve.")
    return {
        stage: {name: sorted(points.items()) for name, points in metrics.items()} for stage, metrics in values.items()
    }


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most ``limit`` points: the means of equal runs of neighbours; short curves stay as they are."""
    if len(points) <= limit:
        return list(points)
    bounds = [round(index * len(points) / limit) for index in range(limit + 1)]
    runs = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]
