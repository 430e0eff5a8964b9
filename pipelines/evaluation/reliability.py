"""How often a judge's decisions are right, by how sure it says it is.

    make judge INPUT=outputs/tiny/data/heldout.parquet OUT=decisions.jsonl
    python -m pipelines.evaluation.reliability decisions.jsonl

Reads decisions of preference pairs, whose response a is the chosen one. A tie names nobody, and is counted apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.data.rows import placed_rows
from pipelines.data.schema import DataError
from pipelines.evaluation.calibration import Forecast, calibration
from pipelines.runs.command_line import clear_errors


def forecasts(path: str) -> tuple[list[Forecast], int]:
    """The confidence of every decision for a or b, with whether it is right; and the number of ties.

    Raises:
        DataError: the file cannot be read, a row is no decision, or there is none.

    """
    found, ties = [], 0
    for place, number, row in placed_rows(path):
        winner, confidence = (row.get("winner"), row.get("confidence")) if isinstance(row, Mapping) else (None, None)
        if winner not in ("a", "b", "tie") or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
            raise DataError(f"{place}: no decision of `make judge`: it needs `winner` and `confidence`")
        if winner == "tie":
            ties += 1
        else:
            found.append(Forecast(float(confidence), float(winner == "a"), number))
    if not found:
        raise DataError(f"{path} holds no decision for a response ({ties} ties)")
    return found, ties


def table(measured: Mapping[str, Any], ties: int) -> str:
    """Bins as lines of a Markdown table, and the errors below it."""
    rows = ["| confidence | decisions | mean confidence | right |", "|---|---|---|---|"]
    rows += [
        f"| {one['low']:.2f} to {one['high']:.2f} | {one['n']} | {one['confidence']:.3f} | {one['accuracy']:.3f} |"
        for one in measured["bins"]
    ]
    errors = (f"{name} {_with_interval(measured, key)}" for name, key in (("ECE", "ece"), ("Brier score", "brier")))
    all_of = (
        f"{measured['n']} decisions, mean confidence {measured['confidence']:.3f}, right {measured['accuracy']:.3f}"
    )
    return "\n".join([*rows, "", f"{all_of}; {ties} ties. {', '.join(errors)}"])


def _with_interval(measured: Mapping[str, Any], key: str) -> str:
    low, high = measured[f"{key}_ci"]
    return f"{measured[key]:.3f} ({low:.3f} to {high:.3f})"


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decisions", help=".jsonl or .parquet that `make judge` wrote of preference pairs")
    parser.add_argument("--bins", type=int, default=10)
    arguments = parser.parse_args(given)
    with clear_errors(begun=True):
        found, ties = forecasts(arguments.decisions)
        if (measured := calibration(found, bins=arguments.bins)) is not None:
            print(table(measured, ties))


if __name__ == "__main__":
    main()
