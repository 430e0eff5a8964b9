"""Where a benchmark's rows come from: the hub, a file, or a folder of files in the published form."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.published import hub_rows, is_hub_name
from pipelines.data.rows import parse_json, rows_of, stem_of
from pipelines.data.schema import DataError

_SUFFIXES = (".jsonl", ".json", ".parquet")
"""Named in messages; JSON lines may be compressed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands."""

    fields: Mapping[str, Any]
    place: str
    """For messages: file or dataset, and row number."""
    stem: str
    """Name of its file without suffix, or of its split."""
    number: int

    def identifier(self, field: str) -> str:
        """What the row calls itself in a field; where it says nothing, its number."""
        stated = self.fields.get(field)
        return str(self.number if stated is None else stated)


def read(
    name: str, location: str | None, needs: Sequence[tuple[str, ...]], hub: str | None, splits: Sequence[str]
) -> Iterator[Row]:
    """Rows of a benchmark. ``needs`` are alternatives: a row has all fields of one of them.

    In a folder, files whose first row has none of them (count tables, scores) are passed over.

    Raises:
        DataError: nothing there, a file that cannot be read, or a row without the fields.

    """
    if location is None and hub is None:
        raise DataError(
            f"{name} is not on the hub: download it and set evaluate.paths.{name}=/path/to/its/folder (or one file)"
        )
    if location is None or (not Path(location).exists() and is_hub_name(location)):
        source = location or str(hub)
        for split in splits:
            for number, fields in hub_rows(source, split):
                yield _checked(Row(fields, f"{source}, split {split}, row {number}", split, number), needs)
        return
    path = Path(location)
    if path.is_file():
        for row in _rows_of_file(path):
            yield _checked(row, needs)
        return
    if not path.is_dir():
        raise DataError(
            f"{location} is not there: set evaluate.paths.{name} to a file, a folder of files or a hub name"
        )
    fitting = 0
    for file in sorted(path.rglob("*")):
        if not (stem_of(file) or file.suffix == ".json") or not file.is_file():
            continue
        rows = _rows_of_file(file)
        first = next(rows, None)
        if first is None or not _fits(first, needs):
            continue
        fitting += 1
        yield first
        for row in rows:
            yield _checked(row, needs)
    if not fitting:
        wanted = " or ".join(", ".join(names) for names in needs)
        raise DataError(f"{location} has no file of {name} ({', '.join(_SUFFIXES)} with the fields {wanted})")


def _rows_of_file(path: Path) -> Iterator[Row]:
    if path.suffix == ".json":
        rows = parse_json(path.read_bytes().removeprefix(codecs.BOM_UTF8), str(path))
        numbered: Iterator[tuple[int, Any]] = enumerate(rows if isinstance(rows, list) else [rows], start=1)
    else:
        numbered = rows_of(path)
    for number, fields in numbered:
        yield Row(fields, f"{path}, row {number}", stem_of(path) or path.stem, number)


def _fits(row: Row, needs: Sequence[tuple[str, ...]]) -> bool:
    if not isinstance(row.fields, Mapping):
        return False
    return any(all(row.fields.get(field) is not None for field in fields) for fields in needs)


def _checked(row: Row, needs: Sequence[tuple[str, ...]]) -> Row:
    if not _fits(row, needs):
        present = ", ".join(sorted(map(str, row.fields))) if isinstance(row.fields, Mapping) else "no fields"
        wanted = " or ".join(", ".join(fields) for fields in needs)
        raise DataError(f"{row.place}: has {present}; needs {wanted}")
    return row
