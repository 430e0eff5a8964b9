"""Rows of JSON lines and parquet: of one file, plain or compressed, of a folder of shards, or of a hub dataset."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.data.published import hub_rows, is_hub_name
from pipelines.data.schema import FAIL, BadRows, DataError, check_unicode, read_rows

Numbered = Iterator[tuple[int, Any]]
"""Row numbers, from 1, and rows."""

KINDS = ".jsonl or .parquet (or .jsonl.gz, .jsonl.zst)"
_ROWS = re.compile(r"(.+)(\.jsonl|\.jsonl\.gz|\.jsonl\.zst|\.parquet)", re.IGNORECASE)
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_NO_DATA = re.compile(
    r"dataset_infos?\.json|readme.*|licen[cs]e.*|[^.]+|.+(\.(md|txt|html|ya?ml|py|log|lock|png|jpg|svg|pdf|bak|sha256|md5)|~)",
    re.IGNORECASE,
)
"""Names of files beside rows that nobody takes for rows; every other one may be a shard that would be missed."""
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval", "heldout")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def stem_of(path: str | Path) -> str | None:
    """Name of a file of rows without its ending; None where it has no such ending."""
    found = _ROWS.fullmatch(Path(path).name)
    return found[1] if found else None


def files_of(path: str | Path) -> list[Path]:
    """The file, or a folder's files of rows in the order of their names, numbers in them by size; hidden ones aside.

    Raises:
        DataError: nothing is there, a file is of an unknown kind, or a folder holds no rows, data of other kinds, data
            in folders below, more than one split, or one shard twice.

    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists() and not folder.is_file():
            raise DataError(f"{folder} is neither a file nor a folder: write the rows to a file, of kind {KINDS}")
        if not folder.is_file():
            raise DataError(
                f"{folder} is not there: give the path of a .jsonl or .parquet file, of a folder of them, or a hub name"
            )
        if stem_of(folder) is None:
            raise DataError(f"{folder}: unknown kind of file {folder.suffix!r}; use {KINDS}")
        return [folder]
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "_"))]
    shards = sorted((entry for entry in entries if not entry.is_dir() and stem_of(entry)), key=_by_name)
    splits = {_split_of(shard): shard for shard in reversed(shards)}
    if len(splits) > 1 and splits.keys() != {"", "train"}:
        first = "train" if "train" in splits else _split_of(shards[0])
        files = [splits.pop(first), *splits.values()]
        raise DataError(
            f"{folder} holds files of several splits, such as {files[0].name} and {files[1].name}, which must not be "
            f"mixed: give one file or a folder for each, for example data.train={files[0]} data.heldout={files[1]}"
        )
    for entry in sorted(entries):
        if entry.is_dir():
            if any(file.is_file() and not _NO_DATA.fullmatch(file.name) for file in entry.rglob("*")):
                raise DataError(f"{folder} holds files in the folder {entry.name}/ below it: give one folder of files")
        elif entry not in shards and not _NO_DATA.fullmatch(entry.name):
            raise DataError(
                f"{entry}: unknown kind of file in a folder of rows; convert it to {KINDS}, or move it away"
            )
    if not shards:
        raise DataError(f"{folder}: a file of rows is not there; the folder needs {KINDS} files")
    seen: dict[str, Path] = {}
    for shard in shards:
        if other := seen.get(stem_of(shard) or ""):
            raise DataError(f"{folder} holds {other.name} and {shard.name}, the same shard twice: remove one")
        seen[stem_of(shard) or ""] = shard
    return shards


def _by_name(path: Path) -> list[tuple[int, str]]:
    """Digits count as numbers, so that ``part-2`` comes before ``part-10``."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _split_of(path: Path) -> str:
    """The first split among the words of a file's name, or nothing."""
    return next((word for word in re.split(r"[^a-z]+", path.name.lower()) if word in _SPLITS), "")


def parts_of(path: str | Path, bad_rows: BadRows = FAIL, split: str = "train") -> Iterator[tuple[str, Numbered]]:
    """Each file that ``path`` names, or the split of a hub dataset, with its rows.

    Raises:
        DataError: there is no such file, folder or dataset, or it cannot be read.

    """
    if not Path(path).exists() and is_hub_name(str(path)):
        yield str(path), hub_rows(str(path), split)
        return
    for file in files_of(path):
        yield str(file), read_rows(file, bad_rows) if file.suffix.lower() == ".parquet" else _json_lines(file, bad_rows)


def placed_rows(path: str | Path, bad_rows: BadRows = FAIL, split: str = "train") -> Iterator[tuple[str, int, Any]]:
    """Every row with its place for messages (file and row) and a number, which goes on from shard to shard.

    Raises:
        DataError: as :func:`parts_of`.

    """
    before = last = 0
    for name, rows in parts_of(path, bad_rows, split):
        for number, row in rows:
            last = before + number
            yield f"{name}, row {number}", last, row
        before = last


def rows_of(path: str | Path) -> Numbered:
    """Row numbers and rows of one file, of a folder or of a hub dataset; see :func:`placed_rows`."""
    return ((number, row) for _, number, row in placed_rows(path))


def _json_lines(path: Path, bad_rows: BadRows) -> Numbered:
    kind = _COMPRESSION.get(path.suffix.lower())
    try:
        with path.open("rb") if kind is None else _decompressed(path, kind) as lines:
            # Split at line feeds alone: texts may hold other characters that Unicode takes for line ends.
            for number, line in enumerate(lines, start=1):
                raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not raw.strip():
                    continue
                try:
                    row = parse_json(raw, f"{path}, row {number}")
                except DataError as error:
                    bad_rows.take(error)
                else:
                    yield number, row
    except OSError as error:
        as_kind = f" as {kind}" if kind else ""
        raise DataError(f"{path}: cannot be read{as_kind}, write it again: {str(error).splitlines()[0]}") from error


def _decompressed(path: Path, kind: str) -> BinaryIO:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=kind))


def parse_json(raw: bytes, place: str) -> Any:
    """The value of JSON text, with every text in it valid Unicode and no key twice in one object.

    Raises:
        DataError: naming ``place`` and what is wrong.

    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 (byte {error.start} of the line): save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: malformed JSON at column {error.colno}: {error.msg}; write one object per line"
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
        twice = next(name for name, number in Counter(name for name, _ in items).items() if number > 1)
        raise ValueError(f"an object has the key {twice!a} twice, keep one")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
