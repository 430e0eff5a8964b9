"""The figures of an evaluation as tables: for the report, W&B and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.evaluation.metrics import RATES

Table = tuple[str, list[str], list[list[Any]]]
"""Name, columns, rows."""


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures by names joined with a dot."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def headline(benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """``<benchmark>/<figure>`` -> value: what goes to ``metrics.jsonl`` and the curves of W&B."""
    numbers: dict[str, float] = {}
    for name, result in benchmarks.items():
        figures = {f"official/{key}": value for key, value in flat(result["official"]).items()}
        figures |= {key: rate["value"] for key, rate in result["overall"].items()}
        for kind, found in result["calibration"].items():
            if found is not None:
                figures |= {f"{kind}_{key}": found[key] for key in ("ece", "brier")}
        numbers |= {f"{name}/{key}": float(value) for key, value in figures.items() if value is not None}
    return numbers


def tables(benchmarks: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """The official figures, and every rate by subset, each value beside its interval; and what judging took."""
    official = [
        [name, key, value, *(flat(result["official_ci"]).get(key) or (None, None)), result["not_comparable"]]
        for name, result in benchmarks.items()
        for key, value in flat(result["official"]).items()
    ]
    cells = [f"{rate}{suffix}" for rate in RATES for suffix in ("", "_low", "_high", "_n")]
    rates = [
        [name, subset, *(part[rate][key] for rate in RATES for key in ("value", "low", "high", "n"))]
        for name, result in benchmarks.items()
        for subset, part in [("all", result["overall"]), *result["by_subset"].items()]
    ]
    spent = [
        [name, result["judgments"], *result["tokens"].values(), result["cost"]] for name, result in benchmarks.items()
    ]
    return [
        ("official", ["benchmark", "figure", "value", "low", "high", "note"], official),
        ("subsets", ["benchmark", "subset", *cells], rates),
        ("spent", ["benchmark", "judgments", "prompt tokens", "judgment tokens", "cost"], spent),
    ]


def line(name: str, result: Mapping[str, Any]) -> str:
    """A benchmark's result in one line of the terminal."""
    official = ", ".join(
        f"{key.split('.')[-1]} {100 * value:.1f}"
        for key, value in flat(result["official"]).items()
        if value is not None
    )
    overall = {key: rate["value"] for key, rate in result["overall"].items()}
    parts = [f"{name}: {official}"]
    for key, label in (("consistent_accuracy", "both orders right"), ("flip_rate", "flips"), ("share_a", "says A")):
        if overall[key] is not None:
            parts.append(f"{label} {100 * overall[key]:.1f}%")
    if result["unread"]:
        causes = ", ".join(f"{count:,} {cause.replace('_', ' ')}" for cause, count in result["unread"].items())
        parts.append(f"no verdict: {causes}")
    if result["whole"] is not None and result["items"] < result["whole"]:
        parts.append(f"{result['items']:,} of {result['whole']:,} items of the published set")
    if result["cost"] is not None:
        parts.append(f"cost {result['cost']:,.2f}")
    if result["not_comparable"]:
        parts.append(result["not_comparable"])
    return "; ".join(parts)
