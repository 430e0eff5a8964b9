"""The data card: what a data set holds, what was left out and why, and what the linter found; Markdown and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import Config
from pipelines.data.lint.responses import word_count
from pipelines.data.lint.run import LintReport
from pipelines.data.mix import Mixed
from pipelines.data.schema import PreferencePair
from pipelines.reporting.cards import histogram


def card_data(name: str, config: Config, mixed: Mixed, report: LintReport, files: Mapping[str, str]) -> dict[str, Any]:
    """Everything the card shows, as plain data; ``files`` maps file names to their SHA-256."""
    splits = {"train": mixed.train, "heldout": mixed.heldout}
    pairs = [*mixed.train, *mixed.heldout]
    readable = [pair for pair in pairs if not pair.ready_made]
    histograms = {
        "Words of the better response": [word_count(pair.chosen) for pair in readable],
        "Words of the worse response": [word_count(pair.rejected) for pair in readable],
        "Messages of the prompt": [len(pair.prompt) for pair in pairs],
    }
    if mixed.tokens:
        histograms = {"Tokens of the prompt, responses included": mixed.tokens, **histograms}
    return {
        "name": name,
        "pairs": {split: len(held) for split, held in splits.items()},
        "seed": config.seed,
        "orders": config.data.orders,
        "model": config.model.path,
        "tokens": sum(mixed.tokens),
        "by_source": _counted(splits, lambda pair: pair.source),
        "by_domain": _counted(splits, lambda pair: pair.domain),
        "histograms": [histogram(title, values) for title, values in histograms.items() if values],
        "inputs": mixed.inputs,
        "dropped": [
            {"source": source, "reason": reason, "count": count}
            for (source, reason), count in sorted(mixed.dropped.items())
        ],
        "ignored": mixed.ignored_columns(),
        "bad_rows": mixed.bad_rows[:20],
        "checks": [check.as_json() for check in report.checks],
        "sources": list(report.sources),
        "files": dict(files),
    }


def _counted(splits: Mapping[str, Sequence[PreferencePair]], key: Any) -> list[dict[str, Any]]:
    counts = {split: Counter(key(pair) for pair in pairs) for split, pairs in splits.items()}
    names = sorted({name for counter in counts.values() for name in counter})
    return [{"name": name, **{split: counts[split][name] for split in splits}} for name in names]
