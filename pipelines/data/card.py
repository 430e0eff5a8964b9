"""The data card: what a data set holds, what was left out and why, and what the linter found; Markdown and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipelines.config import Config
from pipelines.data.lint.responses import word_count
from pipelines.data.lint.run import LintReport
from pipelines.data.mix import Mixed
from pipelines.data.schema import PreferencePair

_TEMPLATES = Path(__file__).parent
_BINS = 24


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
        "bad_rows": mixed.bad_rows[:20],
        "checks": [check.as_json() for check in report.checks],
        "sources": list(report.sources),
        "files": dict(files),
    }


def _counted(splits: Mapping[str, Sequence[PreferencePair]], key: Any) -> list[dict[str, Any]]:
    counts = {split: Counter(key(pair) for pair in pairs) for split, pairs in splits.items()}
    names = sorted({name for counter in counts.values() for name in counter})
    return [{"name": name, **{split: counts[split][name] for split in splits}} for name in names]


def histogram(title: str, values: Sequence[int]) -> dict[str, Any]:
    """Counts in at most 24 equal bins that begin at 0, and the quantiles a limit is chosen by."""
    ordered = sorted(values)
    width = max(1, -(-(ordered[-1] + 1) // _BINS))
    counts = Counter(value // width for value in ordered)
    bins = [{"from": width * index, "count": counts[index]} for index in range(ordered[-1] // width + 1)]
    quantiles = {f"{share}%": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
    return {
        "title": title,
        "width": width,
        "bins": bins,
        "tallest": max(counts.values()),
        "mean": sum(ordered) / len(ordered),
        "quantiles": quantiles,
        "most": ordered[-1],
    }


def render_card(data: Mapping[str, Any], kind: str) -> str:
    """The card as ``md`` or ``html``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=kind == "html",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["share"] = lambda value: "–" if value is None else f"{100 * value:.1f}%"
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:,.0f}"
    # A source's name or a row's id is data, and may hold what Markdown would take for a table's edge.
    environment.filters["cell"] = lambda value: " ".join(str(value).split()).replace("|", "\\|")
    return environment.get_template(f"card.{kind}.jinja").render(data)
