"""From public preference sets to a data set: mix, split, lint, write, and a card that says what it is.

    python -m pipelines.build_data DATA [overrides]

writes ``<data.mix.folder>/<name>/``: ``train.parquet``, ``heldout.parquet``, ``card.md``, ``card.html``, ``lint.json``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from actors.files import clean_leftovers, sha256_file, write_text
from pipelines.config import Config, ConfigError
from pipelines.config.overrides import arguments_of
from pipelines.data.card import card_data
from pipelines.data.lint.overlap import benchmark_items
from pipelines.data.lint.run import LintReport, lint
from pipelines.data.mix import entries, mix
from pipelines.data.prompts import PromptTemplate, load_template
from pipelines.data.schema import write_pairs
from pipelines.data.tokenizer import load_tokenizer
from pipelines.reporting.cards import render_card
from pipelines.reporting.console import Console
from pipelines.runs.command_line import clear_errors
from pipelines.runs.request import HELDOUT, TRAIN, configured


def prompt_template(config: Config) -> PromptTemplate:
    """The model's template; without a model, the one for instruct models."""
    return load_template(config.model.prompt if config.model.path else "chain_of_rubrics")


def build(name: str, config: Config, console: Console) -> LintReport:
    """Write the data set and return what the linter says about it.

    Raises:
        ConfigError, DataError: see :func:`pipelines.data.mix.mix` and :func:`pipelines.data.lint.run.lint`.

    """
    console.header("data", f"{name}, seed {config.seed}")
    folder = Path(config.data.mix.folder) / name
    if any(Path(entry.path or "").resolve() == folder.resolve() for entry in entries(config).values()):
        raise ConfigError(f"{folder} would be read and written: set data.mix.folder to write somewhere else")
    template = prompt_template(config)
    model = config.model
    tokenizer = load_tokenizer(model.path, variables=model.chat_template_kwargs) if model.path else None
    benchmarks = benchmark_items(config.data.lint.benchmarks)
    mixed = mix(config, template, tokenizer, benchmarks)
    for entry in mixed.inputs:
        console.note(
            f"{entry['name']}: {entry['used']} of {entry['read']} pairs of {entry['path']} ({entry['schema']})"
        )
    for (source, reason), count in sorted(mixed.dropped.items()):
        console.note(f"left out of {source}: {count}, {reason}")
    for loss in mixed.ignored_columns():
        console.note(loss)
    splits = {"train": mixed.train, "heldout": mixed.heldout}
    report = lint(splits, config, template, benchmarks, mixed.bad_rows, mixed.counts)

    folder.mkdir(parents=True, exist_ok=True)
    clean_leftovers(folder)
    # The verdict goes first and comes last: while it is there, everything beside it is whole and of one build.
    (folder / "lint.json").unlink(missing_ok=True)
    files = {}
    for file, pairs in ((TRAIN, mixed.train), (HELDOUT, mixed.heldout)):
        write_pairs(pairs, folder / file)
        files[file] = sha256_file(folder / file)
    data = card_data(name, config, mixed, report, files)
    write_text(folder / "card.md", render_card(data, "data", "md"))
    write_text(folder / "card.html", render_card(data, "data", "html"))
    write_text(
        folder / "lint.json", json.dumps({**report.as_json(), "files": files}, indent=2, ensure_ascii=False) + "\n"
    )
    show(report, console)
    console.note(f"{len(mixed.train)} pairs for training, {len(mixed.heldout)} held out: {folder}/")
    return report


def show(report: LintReport, console: Console) -> None:
    """The checks as a table, with examples of what failed."""
    console.checks([(check.finding.check, check.status, check.finding.summary) for check in report.checks])
    for check in report.failed:
        for example in check.finding.examples[:5]:
            console.note(f"{check.finding.check}: {example}")


def target_and_overrides(arguments: list[str]) -> tuple[str, list[str]]:
    """The one argument that is not a setting, and the settings.

    Raises:
        ConfigError: there is none, or more than one.

    """
    arguments = arguments_of(arguments)
    targets = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if len(targets) != 1:
        raise ConfigError("give one data set: the name of a file in conf/data, or a path (DATA=...)")
    return targets[0], [argument for argument in arguments if argument != targets[0]]


def main() -> None:
    """Exit status 0; 1 where a check fails or the data cannot be used; 2 where the settings cannot."""
    # Nothing here forks, so the tokenizer may use every core.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    console = Console()
    with clear_errors():
        report = build(*configured(*target_and_overrides(sys.argv[1:])), console)
    if report.failed:
        console.error(f"{len(report.failed)} checks failed; the data set is written, but not fit to train on as it is")
        sys.exit(1)


if __name__ == "__main__":
    main()
