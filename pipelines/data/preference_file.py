"""Pairs of a file, of a folder of shards, or of a hub dataset, in any form of :mod:`pipelines.data.sources`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pipelines.data import sources
from pipelines.data.question import check_all_read, without
from pipelines.data.rows import parts_of
from pipelines.data.schema import BadRows, DataError, PreferencePair, prompt_key

_LOOK_AHEAD = 20
"""Rows in which a file's form is looked for."""


@dataclass(slots=True)
class PairFile:
    """What was read from one file."""

    schema: str
    """Name of its form."""
    pairs: list[PreferencePair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows that yield no pair, by reason."""
    bad: list[str] = field(default_factory=list)
    """Messages of the bad rows that were skipped."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Rows that had a value in a column that was to be ignored, by column."""

    def losses(self) -> tuple[str, ...]:
        """What was not read, in words."""
        return losses(self.bad, self.ignored)


def losses(bad: Sequence[str], ignored: Counter[str]) -> tuple[str, ...]:
    """Skipped rows and ignored columns, in words."""
    skipped = [f"{len(bad)} bad rows skipped"] if bad else []
    return (*skipped, *(f"column {name} ignored in {count} rows" for name, count in sorted(ignored.items())))


@dataclass(frozen=True, slots=True)
class Mapped:
    """How columns of any name become the project's own."""

    columns: Mapping[str, str]
    """Our field -> their column; a dot reaches into an object."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Their label -> ``A`` or ``B``."""

    def apply(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The row with our fields beside its own.

        Raises:
            DataError: a column is missing; names it and those there are.

        """
        # Their columns of our names are out of the way when something else is mapped: `chosen` may mean another thing.
        mapped = {key: value for key, value in row.items() if key in ("id", "source", "domain", "prompt", "metadata")}
        for ours, theirs in self.columns.items():
            value: Any = row
            for part in theirs.split("."):
                if not isinstance(value, Mapping) or part not in value:
                    raise DataError(f"{place}: column {theirs!r}, for {ours!r}, is missing (the row has: {_keys(row)})")
                value = value[part]
            mapped[ours] = self.labels.get(str(value), value) if ours == "label" else value
        return mapped


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, row))) or "nothing"


def load_pairs(path: str | Path, on_bad_row: str = "fail") -> list[PreferencePair]:
    """The pairs of a file or folder whose form its rows tell; see :func:`read_pair_file`."""
    return read_pair_file(path, on_bad_row=on_bad_row).pairs


def read_pair_file(
    path: str | Path,
    schema: str = "auto",
    mapped: Mapped | None = None,
    on_bad_row: str = "fail",
    split: str = "train",
    ignore: Sequence[str] = (),
    labelled: bool = True,
) -> PairFile:
    """Read and check every row of a file, of all files in a folder, or of a hub dataset.

    ``ignore`` names columns that are left out before a row is read. Without ``labelled`` no label is needed or read:
    the response that stands first in a row, or is called chosen, is ``chosen`` here.

    Raises:
        DataError: the file is missing, of an unknown kind or form, not UTF-8, malformed at a line, holds a bad row,
            the same id twice, or a part of the question in a column that its form does not read; or the files of a
            folder have different forms. Names file, row and field. With ``on_bad_row="skip"`` bad rows are collected
            instead.

    """
    bad_rows = BadRows(skip=on_bad_row == "skip")
    result = PairFile(schema if schema != "auto" or mapped is None else sources.OWN, bad=bad_rows.skipped)
    homes: dict[str, str] = {}
    first_file, before = "", 0
    for name, rows in parts_of(path, bad_rows, split):
        if not labelled:
            rows = ((number, sources.first_better(row)) for number, row in rows)
        if schema == "auto" and mapped is None:
            first = list(islice(rows, _LOOK_AHEAD))
            if not first:
                continue
            rows = chain(first, rows)
            found = next(
                (known for _, row in first if (known := sources.recognise(without(row, ignore, Counter())))), None
            )
            if not first_file:
                first_file, result.schema = name, found or sources.OWN
            elif found not in (None, result.schema):
                raise DataError(
                    f"{name} has the form {found}, {first_file} the form {result.schema}: give files of one form, or "
                    "name the files as sources of a mix (data.mix.sources)"
                )
        form, number = sources.source(result.schema), 0
        for number, row in rows:
            place = f"{name}, row {number}"
            try:
                pair = _read_row(row, place, before + number, form, mapped, ignore, result.ignored)
                if pair.id in homes:
                    home = homes[pair.id].removeprefix(f"{name}, ")
                    raise DataError(f"{place}, field 'id': {pair.id!r} is the id of {home} too: change one")
            except sources.RowDropped as reason:
                result.dropped[str(reason)] += 1
            except DataError as error:
                bad_rows.take(error)
            else:
                homes[pair.id] = place
                result.pairs.append(pair)
        before += number
    if not result.pairs:
        if not result.bad:
            raise DataError(f"{path} holds no pairs: write one row per pair")
        raise DataError(f"{path} holds no pairs: {len(result.bad)} bad rows were skipped, the first: {result.bad[0]}")
    return result


def _read_row(
    row: Any,
    place: str,
    number: int,
    form: sources.Source,
    mapped: Mapped | None,
    ignore: Sequence[str],
    ignored: Counter[str],
) -> PreferencePair:
    """The pair of one row, with nothing of its question left behind."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    row = without(row, ignore, ignored)
    pair = form.pair(mapped.apply(row, place) if mapped is not None else row, place, number)
    check_all_read(row, [message.content for message in pair.prompt], (pair.chosen, pair.rejected), place)
    return pair


def split_by_prompt(
    pairs: Sequence[PreferencePair], heldout_fraction: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs with no prompt on both sides; a pair's side depends on its prompt and seed alone.

    Raises:
        DataError: one side would be empty.

    """
    train: list[PreferencePair] = []
    heldout: list[PreferencePair] = []
    for pair in pairs:
        digest = hashlib.sha256(f"{seed}/{prompt_key(pair)}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        (heldout if position < heldout_fraction else train).append(pair)
    if not train or not heldout:
        raise DataError(
            f"{len(pairs)} pairs leave {len(train)} for training and {len(heldout)} held out at "
            f"data.heldout_fraction={heldout_fraction}: give more pairs, another fraction, or data.heldout"
        )
    return train, heldout
