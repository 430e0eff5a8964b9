"""Files of pairs: a .jsonl or .parquet file, or a hub dataset, in any form of :mod:`pipelines.data.sources`."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pipelines.data import sources
from pipelines.data.published import hub_rows, is_hub_name
from pipelines.data.schema import FAIL, BadRows, DataError, PreferencePair, check_unicode, prompt_key, read_rows

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
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


@dataclass(frozen=True, slots=True)
class Mapped:
    """How columns of any name become the project's own."""

    columns: Mapping[str, str]
    """Our field -> their column; a dot reaches into an object."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Their label -> ``A`` or ``B``."""

    def apply(self, row: Any, place: str) -> dict[str, Any]:
        """The row with our fields beside its own.

        Raises:
            DataError: a column is missing; names it and those there are.

        """
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
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
    """The pairs of a file whose form its rows tell; see :func:`read_pair_file`."""
    return read_pair_file(path, on_bad_row=on_bad_row).pairs


def read_pair_file(
    path: str | Path, schema: str = "auto", mapped: Mapped | None = None, on_bad_row: str = "fail", split: str = "train"
) -> PairFile:
    """Read and check every row.

    Raises:
        DataError: the file is missing, of an unknown kind or form, not UTF-8, malformed at a line, holds a bad row or
            the same id twice; names file, row and field. With ``on_bad_row="skip"`` bad rows are collected instead.

    """
    bad_rows = BadRows(skip=on_bad_row == "skip")
    rows = rows_of(path, bad_rows, split)
    if mapped is not None and schema == "auto":
        schema = sources.OWN
    elif schema == "auto":
        first = list(islice(rows, _LOOK_AHEAD))
        rows = chain(first, rows)
        schema = next((name for _, row in first if (name := sources.recognise(row))), sources.OWN)
    form = sources.source(schema)
    result = PairFile(schema, bad=bad_rows.skipped)
    first_row: dict[str, int] = {}
    for number, row in rows:
        place = f"{path}, row {number}"
        try:
            row = mapped.apply(row, place) if mapped is not None else row
            if not isinstance(row, Mapping):
                raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
            pair = form.pair(row, place, number)
            if pair.id in first_row:
                raise DataError(
                    f"{place}, field 'id': {pair.id!r} is the id of row {first_row[pair.id]} too: change one"
                )
        except sources.RowDropped as reason:
            result.dropped[str(reason)] += 1
        except DataError as error:
            bad_rows.take(error)
        else:
            first_row[pair.id] = number
            result.pairs.append(pair)
    if not result.pairs:
        if not result.bad:
            raise DataError(f"{path} holds no pairs: write one row a pair")
        raise DataError(f"{path} holds no pairs: {len(result.bad)} bad rows were skipped, the first: {result.bad[0]}")
    return result


def rows_of(path: str | Path, bad_rows: BadRows = FAIL, split: str = "train") -> Iterator[tuple[int, Any]]:
    """Row numbers, from 1, and rows of a .jsonl or .parquet file, or of a split of a hub dataset given by name.

    Raises:
        DataError: there is no such file or dataset, or it cannot be read.

    """
    file = Path(path)
    if not file.exists() and is_hub_name(str(path)):
        return hub_rows(str(path), split)
    if not file.is_file():
        raise DataError(f"{file} is not there: give the path of a .jsonl or .parquet file, or a hub name")
    if file.suffix == ".jsonl":
        return _read_jsonl(file, bad_rows)
    if file.suffix == ".parquet":
        return read_rows(file, bad_rows)
    raise DataError(f"{file}: unknown kind of file {file.suffix!r}; use .jsonl or .parquet")


def _read_jsonl(path: Path, bad_rows: BadRows) -> Iterator[tuple[int, Any]]:
    # Split at line feeds alone: texts may hold other characters that Unicode takes for line ends.
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = parse_json(raw, f"{path}, row {number}")
        except DataError as error:
            bad_rows.take(error)
        else:
            yield number, row


def parse_json(raw: bytes, place: str) -> Any:
    """The value of JSON text, with every text in it valid Unicode and no key twice in one object.

    Raises:
        DataError: naming ``place`` and what is wrong.

    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 (byte {error.start} of the line): save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: malformed JSON at column {error.colno}: {error.msg}; write one object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: JSON that cannot be read: {error}") from error
    # In bytes that are UTF-8, only an escape can state half of a surrogate pair.
    if _SURROGATE.search(raw):
        check_unicode(value, place)
    return value


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) < len(items):
        twice = next(name for name, count in Counter(name for name, _ in items).items() if count > 1)
        raise ValueError(f"an object has the key {twice!a} twice, keep one")
    return result


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
