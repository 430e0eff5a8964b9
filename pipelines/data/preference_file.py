"""A user's own pairs: a .jsonl or .parquet file, or a hub dataset, with the fields of :mod:`pipelines.data.schema` or
in the form the RM-R1 sets are published in."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.published import hub_rows, is_hub_name, is_published, published_pair
from pipelines.data.schema import DataError, PreferencePair, prompt_key, read_rows, validate


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Read and check every row.

    Raises:
        DataError: the file is missing, of an unknown kind, not UTF-8, malformed at a line, holds a bad row or the same
            id twice; names file, row and field.

    """
    file = Path(path)
    pairs: list[PreferencePair] = []
    first_row: dict[str, int] = {}
    for number, row in rows_of(path):
        place = f"{file}, row {number}"
        if is_published(row):
            pair = published_pair(row, place, number)
        else:
            pair = validate(row, place=place, number=number)
        if pair.id in first_row:
            raise DataError(
                f"{file}, row {number}, field 'id': {pair.id!r} is the id of row {first_row[pair.id]} too: change one"
            )
        first_row[pair.id] = number
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{file} holds no pairs: write one row a pair")
    return pairs


def rows_of(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Row numbers, from 1, and rows of a .jsonl or .parquet file, or of a hub dataset given by name.

    Raises:
        DataError: there is no such file or dataset, or it cannot be read.

    """
    file = Path(path)
    if not file.exists() and is_hub_name(str(path)):
        return hub_rows(str(path))
    if not file.is_file():
        raise DataError(f"{file} is not there: give the path of a .jsonl or .parquet file, or a hub name")
    readers = {".jsonl": _read_jsonl, ".parquet": read_rows}
    if file.suffix not in readers:
        raise DataError(f"{file}: unknown kind of file {file.suffix!r}; use .jsonl or .parquet")
    return readers[file.suffix](file)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    # Split at line feeds alone: texts may hold other characters that Unicode takes for line ends.
    for number, raw in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not raw.strip():
            continue
        place = f"{path}, row {number}"
        try:
            yield number, json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 (byte {error.start} of the line): save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: malformed JSON at column {error.colno}: {error.msg}; write one object a line"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: JSON that cannot be read: {error}") from error


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
