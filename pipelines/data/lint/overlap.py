"""Benchmark overlap: which benchmark items stand in a pair's prompt, by their word 8-grams."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.lint.findings import Finding
from pipelines.data.lint.words import Words, runs
from pipelines.data.rows import placed_rows
from pipelines.data.schema import DataError, PreferencePair

_RUN = 8
_PROMPTS = ("prompt", "question", "instruction", "conversation_input", "context_messages", "messages")
_IDS = ("id", "pair_uid", "bon_uid", "pair_id", "idx")
_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """What a benchmark asks."""

    name: str
    """Benchmark and id."""
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """A benchmark item and the pair that holds most of it."""

    item: str
    pair: int
    """Position of the pair."""
    share: float
    """Of the item's distinct 8-grams."""


def benchmark_items(paths: Iterable[str]) -> list[BenchmarkItem]:
    """The questions in files of benchmark items, whatever the benchmark: the first known column with a prompt.

    Raises:
        DataError: a file cannot be read, or a row has no prompt under a known name.

    """
    items = []
    for path in paths:
        benchmark = f"{Path(path).parent.name}/{Path(path).stem}"
        for place, number, row in placed_rows(path):
            prompt = next((row[name] for name in _PROMPTS if row.get(name)), None) if isinstance(row, dict) else None
            if prompt is None:
                raise DataError(f"{place}: a benchmark item needs its question in {', '.join(_PROMPTS)}")
            identifier = next((row[name] for name in _IDS if row.get(name) is not None), number)
            items.append(BenchmarkItem(f"{benchmark}/{identifier}", _text(prompt)))
    return items


def _text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content", "")) for message in prompt if isinstance(message, Mapping))


def overlaps(pairs: Sequence[PreferencePair], items: Sequence[BenchmarkItem], least: float) -> list[Overlap]:
    """Every (item, pair) with at least a share ``least`` of the item's distinct 8-grams in the pair's prompt.

    An item of fewer than eight words has one gram, all of it, and must be all of a message to count.
    """
    words = Words()
    holders: dict[int, list[int]] = defaultdict(list)
    sizes = []
    for index, item in enumerate(items):
        grams = np.unique(runs(words.of(item.text), _RUN))
        sizes.append(len(grams))
        for gram in grams.tolist():
            holders[gram].append(index)
    known = np.array(sorted(holders), np.uint64)
    found = []
    for position, pair in enumerate(pairs):
        grams = np.unique(np.concatenate([runs(words.of(message.content), _RUN) for message in pair.prompt]))
        places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
        hits = Counter(index for gram in grams[known[places] == grams].tolist() for index in holders[gram])
        found += [
            Overlap(items[index].name, position, count / sizes[index])
            for index, count in sorted(hits.items())
            if count / sizes[index] >= least
        ]
    return found


def benchmark_overlap(pairs: Sequence[PreferencePair], items: Sequence[BenchmarkItem], least: float) -> Finding:
    """The items found in training pairs."""
    if not items:
        return Finding("benchmark_overlap", None, "no benchmarks given (data.lint.benchmarks)")
    found = overlaps(pairs, items, least)
    best = sorted(
        {item.item: item for item in sorted(found, key=lambda hit: hit.share)}.values(), key=lambda hit: hit.item
    )
    touched = len({hit.pair for hit in found})
    by_benchmark = Counter(hit.item.rsplit("/", 1)[0] for hit in best)
    return Finding(
        "benchmark_overlap",
        not best,
        f"{len(best)} of {len(items)} benchmark items are in the prompts of {touched} pairs",
        {"items": len(best), "of": len(items), "pairs": touched, "by_benchmark": dict(sorted(by_benchmark.items()))},
        tuple(f"{hit.item} in {pairs[hit.pair].id} ({100 * hit.share:.0f}%)" for hit in best[:_EXAMPLES]),
    )
