"""A user's own pairs: a .jsonl or .parquet file with the fields of :mod:`pipelines.data.schema`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, prompt_key, validate


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Read and check every row.

    Raises:
        DataError: the file is missing, of an unknown kind, not UTF-8, malformed at a line, holds a bad row or the same
            id twice; names file, row and field.

    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file} is not there: give the path of a .jsonl or .parquet file of preference pairs")
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".parquet": _read_parquet}
    if file.suffix not in readers:
        raise DataError(f"{file}: unknown kind of file {file.suffix!r}; use .jsonl or .parquet")
    pairs: list[PreferencePair] = []
    first_row: dict[str, int] = {}
    for number, row in readers[file.suffix](file):
        pair = validate(row, place=f"{file}, row {number}", number=number)
        if pair.id in first_row:
            raise DataError(f"{file}, row {number}, field 'id': {pair.id!r} is the id of row {first_row[pair.id]} too")
        first_row[pair.id] = number
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{file} holds no pairs")
    return pairs


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield number, json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, row {number}: not UTF-8 (byte {error.start} of the line)") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: malformed JSON at column {error.colno}: {error.msg}") from error


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows, start=1):
        if isinstance(row.get("metadata"), str):
            row["metadata"] = json.loads(row["metadata"])
        yield number, row


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
