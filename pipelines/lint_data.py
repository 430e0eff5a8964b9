"""Lint a data set or a file of pairs as it is, and write nothing.

    python -m pipelines.lint_data DATA [overrides]

prints a table and exits with 1 when a check fails. ``DATA`` is a folder that ``build_data`` wrote, a .jsonl or .parquet
file in any known form, or a data configuration, whose sources are read without filtering them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipelines.build_data import prompt_template, show, target_and_overrides
from pipelines.config import Config
from pipelines.data.lint.overlap import benchmark_items
from pipelines.data.lint.run import LintReport, lint
from pipelines.data.mix import read_sources
from pipelines.data.preference_file import read_pair_file
from pipelines.data.schema import DataError, PreferencePair
from pipelines.reporting.console import Console
from pipelines.runs.command_line import clear_errors
from pipelines.runs.request import HELDOUT, TRAIN, configured


def splits_of(target: str, config: Config) -> tuple[dict[str, list[PreferencePair]], list[str]]:
    """The pairs to lint by split, and the messages of skipped rows.

    Raises:
        DataError: a file cannot be used, or a folder holds no data set.

    """
    paths = {}
    if Path(target).is_dir():
        paths = {"train": Path(target) / TRAIN, "heldout": Path(target) / HELDOUT}
        if not paths["train"].is_file():
            raise DataError(f"{target} holds no {TRAIN}: give a folder that `make data` wrote, or a file of pairs")
        paths = {name: path for name, path in paths.items() if path.is_file()}
    pairs, bad = {}, []
    if not paths:
        mixed = read_sources(config)
        pairs["train"], bad = mixed.train, mixed.bad_rows
    if config.data.heldout is not None:
        paths["heldout"] = Path(config.data.heldout)
    for name, path in paths.items():
        read = read_pair_file(path, on_bad_row=config.data.on_bad_row)
        pairs[name] = read.pairs
        bad += read.bad
    return pairs, bad


def check(target: str, config: Config) -> LintReport:
    """Lint what ``target`` names, labelled rows in the order they are in."""
    splits, bad_rows = splits_of(target, config)
    benchmarks = benchmark_items(config.data.lint.benchmarks)
    return lint(splits, config, prompt_template(config), benchmarks, bad_rows, as_given=True)


def main() -> None:
    """Exit status 0; 1 where a check fails or the data cannot be read; 2 where the settings cannot be used."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    console = Console()
    with clear_errors():
        target, overrides = target_and_overrides(sys.argv[1:])
        _, config = configured(target, overrides)
        report = check(target, config)
    show(report, console)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
