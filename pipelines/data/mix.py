"""The mix: pairs of several sources, filtered, sampled, without duplicates, split by prompt; every loss is counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.files import sha256_file
from pipelines.config import Config, ConfigError, MixSource
from pipelines.data import sources
from pipelines.data.lint.duplicates import near_pairs
from pipelines.data.lint.overlap import BenchmarkItem, overlaps
from pipelines.data.preference_file import Mapped, PairFile, read_pair_file, split_by_prompt
from pipelines.data.prompts import PromptTemplate, encode_all, orders_of, render
from pipelines.data.rows import files_of, stem_of
from pipelines.data.schema import PreferencePair, content_key, normalised, prompt_key

Dropped = Counter[tuple[str, str]]
"""Pairs or rows left out, by source and reason."""


@dataclass(slots=True)
class Mixed:
    """A data set and how it came about."""

    train: list[PreferencePair] = field(default_factory=list)
    heldout: list[PreferencePair] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """Of each entry: name, path, schema, pairs read, pairs used, SHA-256 of its file."""
    dropped: Dropped = field(default_factory=Counter)
    bad_rows: list[str] = field(default_factory=list)
    """Messages of the rows that were skipped."""
    ignored: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows that had a value in a column of `data.ignore_columns`, by entry and column."""
    counts: Counter[str] = field(default_factory=Counter)
    """Pairs by source before duplicates were dropped."""
    tokens: list[int] = field(default_factory=list)
    """Of every prompt that is kept; empty without a tokenizer."""

    def ignored_columns(self) -> list[str]:
        """Columns that were not read, in words."""
        return [
            f"{name}: column {column} ignored in {count} rows" for (name, column), count in sorted(self.ignored.items())
        ]


def mix(
    config: Config, template: PromptTemplate, tokenizer: Any = None, benchmarks: Sequence[BenchmarkItem] = ()
) -> Mixed:
    """Build the data set ``config.data`` describes.

    Without a tokenizer tokens are not counted, and no prompt is too long.

    Raises:
        ConfigError: no sources are named.
        DataError: a source cannot be read, or a split would be empty.

    """
    result = read_sources(config)
    dropped = result.dropped
    pairs = _without_duplicates(result.train, dropped)
    if config.data.mix.drop_near_duplicates:
        near = {item.later for item in near_pairs(pairs, config.data.lint.near_duplicate)}
        pairs = _without(pairs, near, "nearly a duplicate", dropped)
    if config.data.mix.drop_benchmark_items and benchmarks:
        found = {item.pair for item in overlaps(pairs, benchmarks, config.data.lint.overlap)}
        pairs = _without(pairs, found, "holds a benchmark item", dropped)
    if tokenizer is not None:
        pairs = _short_enough(pairs, config, template, tokenizer, result)
    if config.data.heldout is None:
        result.train, result.heldout = split_by_prompt(pairs, config.data.heldout_fraction, config.seed)
    else:
        read = read_pair_file(config.data.heldout, on_bad_row=config.data.on_bad_row, ignore=config.data.ignore_columns)
        result.heldout = read.pairs
        _note_losses("heldout", read, result)
        asked = {prompt_key(pair) for pair in result.heldout}
        shared = {index for index, pair in enumerate(pairs) if prompt_key(pair) in asked}
        result.train = _without(pairs, shared, "prompt is in data.heldout", dropped)
    return result


def read_sources(config: Config) -> Mixed:
    """The pairs of every source after its own filters and draw, all in ``train``.

    Raises:
        ConfigError, DataError: as :func:`mix`.

    """
    result = Mixed()
    for name, entry in entries(config).items():
        result.train += _read(name, entry, config, result)
    result.counts.update(pair.source for pair in result.train)
    return result


def entries(config: Config) -> dict[str, MixSource]:
    """What is mixed, by name: the sources of `data.mix`, or `data.train` alone.

    Raises:
        ConfigError: neither is given.

    """
    if config.data.mix.sources:
        return dict(config.data.mix.sources)
    if config.data.train is None:
        raise ConfigError(
            "this data configuration names no pairs: give data.mix.sources or data.train, or a file of pairs"
        )
    return {stem_of(config.data.train) or Path(config.data.train).name: MixSource(path=config.data.train)}


def _read(name: str, entry: MixSource, config: Config, result: Mixed) -> list[PreferencePair]:
    """The pairs of one entry, after its own filters and draw; notes what was left out in ``result``."""
    dropped = result.dropped
    path = entry.path or (sources.source(entry.schema).HUB if entry.schema != "auto" else None)
    if path is None:
        raise ConfigError(f"data.mix.sources.{name}.path: schema {entry.schema!r} is not on the hub: give a file")
    mapped = Mapped(entry.columns, entry.labels) if entry.columns else None
    read = read_pair_file(path, entry.schema, mapped, config.data.on_bad_row, entry.split, config.data.ignore_columns)
    _note_losses(name, read, result)
    left_out = sources.source(read.schema).LEFT_OUT if entry.leave_out is None else entry.leave_out
    kept = []
    for pair in read.pairs:
        if pair.source in left_out:
            dropped[name, f"source {pair.source} is left out"] += 1
        else:
            kept.append(pair)
    if 0 < entry.take < len(kept):
        dropped[name, f"not among the {entry.take} drawn"] += len(kept) - entry.take
        kept = _sample(kept, entry.take, config.seed)
    result.inputs.append(
        {
            "name": name,
            "path": str(path),
            "schema": read.schema,
            "read": len(read.pairs),
            "used": len(kept),
            "sha256": _fingerprint(path),
        }
    )
    # Files know nothing of one another's ids.
    prefix = "" if len(entries(config)) == 1 else f"{name}/"
    return [
        replace(
            pair,
            id=prefix + pair.id,
            source=entry.source or pair.source,
            domain=entry.domain or pair.domain,
        )
        for pair in kept
    ]


def _note_losses(name: str, read: PairFile, result: Mixed) -> None:
    for reason, count in read.dropped.items():
        result.dropped[name, reason] += count
    if read.bad:
        result.dropped[name, "bad row"] += len(read.bad)
        result.bad_rows += read.bad
    for column, count in read.ignored.items():
        result.ignored[name, column] += count


def _fingerprint(path: str) -> str | None:
    """SHA-256 of a file, or of the names and hashes of a folder's files; None for a hub dataset."""
    if not Path(path).exists():
        return None
    if Path(path).is_file():
        return sha256_file(path)
    listed = "".join(f"{file.name} {sha256_file(file)}\n" for file in files_of(path))
    return hashlib.sha256(listed.encode()).hexdigest()


def _sample(pairs: Sequence[PreferencePair], count: int, seed: int) -> list[PreferencePair]:
    """``count`` pairs in their order, drawn by seed and id, so that the order of the file does not matter."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"{seed}/take/{pairs[index].id}".encode()).digest()

    return [pairs[index] for index in sorted(sorted(range(len(pairs)), key=draw)[:count])]


def _without(pairs: Sequence[PreferencePair], indices: set[int], reason: str, dropped: Dropped) -> list[PreferencePair]:
    for index in indices:
        dropped[pairs[index].source, reason] += 1
    return [pair for index, pair in enumerate(pairs) if index not in indices]


def _without_duplicates(pairs: Sequence[PreferencePair], dropped: Dropped) -> list[PreferencePair]:
    """The first of equal pairs; none of those that contradict each other, since nobody knows which is right."""
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(content_key(pair), []).append(index)
    fate: dict[str, set[int]] = {"duplicate": set(), "contradicts an equal pair": set()}
    for indices in groups.values():
        if len({normalised(pairs[index].chosen) for index in indices}) > 1:
            fate["contradicts an equal pair"].update(indices)
        else:
            fate["duplicate"].update(indices[1:])
    for reason, lost in fate.items():
        for index in lost:
            dropped[pairs[index].source, reason] += 1
    gone = set().union(*fate.values())
    return [pair for index, pair in enumerate(pairs) if index not in gone]


def _short_enough(
    pairs: Sequence[PreferencePair], config: Config, template: PromptTemplate, tokenizer: Any, result: Mixed
) -> list[PreferencePair]:
    """Pairs of which no prompt is longer than ``model.max_prompt_tokens``; counts every prompt's tokens once."""
    most = config.model.max_prompt_tokens
    ordered = orders_of(pairs, config.data.orders, config.seed)
    encoded = encode_all((render(pair, order, template) for pair, order in ordered), tokenizer)
    lengths: dict[str, list[int]] = {}
    for (pair, _), token_ids in zip(ordered, encoded, strict=True):
        lengths.setdefault(pair.id, []).append(len(token_ids))
    long = {index for index, pair in enumerate(pairs) if max(lengths[pair.id]) > most}
    kept = _without(pairs, long, f"prompt longer than {most} tokens", result.dropped)
    result.tokens = [length for pair in kept for length in lengths[pair.id]]
    return kept
