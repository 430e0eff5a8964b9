"""Lint a data set or a file of pairs as it is, and write nothing.

    python -m pipelines.lint_data DATA [overrides]

prints a table and exits with 1 when a check fails. ``DATA`` is a folder that ``build_data`` wrote, a file or a
folder of files in any known form, or a data configuration, whose sources are read without filtering them.
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
from pipelines.data.preference_file import losses
from pipelines.data.schema import PreferencePair
from pipelines.reporting.console import Console
from pipelines.runs.command_line import clear_errors
from pipelines.runs.request import HELDOUT, TRAIN, configured
from pipelines.stages.inputs import read_pairs_of


def splits_of(target: str, config: Config) -> tuple[dict[str, list[PreferencePair]], list[str], list[str]]:
    """The pairs to lint by split, the messages of skipped rows, and what else was not read, in words.

    Raises:
        DataError: a file or folder cannot be used.

    """
    built = {"train": Path(target) / TRAIN, "heldout": Path(target) / HELDOUT}
    paths = {name: path for name, path in built.items() if path.is_file()} if built["train"].is_file() else {}
    pairs, bad, ignored = {}, [], []
    if not paths:
        mixed = read_sources(config)
        pairs["train"], bad, ignored = mixed.train, mixed.bad_rows, mixed.ignored_columns()
    if config.data.heldout is not None:
        paths["heldout"] = Path(config.data.heldout)
    for name, path in paths.items():
        read = read_pairs_of(config, path)
        pairs[name] = read.pairs
        bad += read.bad
        ignored += losses((), read.ignored)
    return pairs, bad, ignored


def check(target: str, config: Config, console: Console) -> LintReport:
    """Lint what ``target`` names, labelled rows in the order they are in."""
    splits, bad_rows, ignored = splits_of(target, config)
    for loss in ignored:
        console.note(loss)
    benchmarks = benchmark_items(config.data.lint.benchmarks)
    return lint(splits, config, prompt_template(config), benchmarks, bad_rows, as_given=True)


def main() -> None:
    """Exit status 0; 1 where a check fails or the data cannot be read; 2 where the settings cannot be used."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    console = Console()
    with clear_errors():
        target, overrides = target_and_overrides(sys.argv[1:])
        _, config = configured(target, overrides)
        report = check(target, config, console)
    show(report, console)
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
