"""Files of JSON lines that grow: one object per line, and one rule for a last line that was torn.

A process that is killed leaves at most one line without its end. Such a line holds no row, and it is cut off when the
file is opened again, so that the next line does not join it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.files import atomic_path

_SYNC_SECONDS = 1.0


class JsonLines:
    """A file of JSON lines, open for appending; only one process may.

    Raises:
        OSError: it cannot be opened.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(sum(len(line) for _, line in lines_of(path) if line.endswith(b"\n")))
        self._synced = 0.0

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Add rows: when this returns no end of this process can lose them, and a power cut only the last second's.

        Raises:
            ValueError: NaN or infinity, which JSON has no word for.
            OSError: they could not be written, for example because the disk is full, and none of them is there; names
                the file.

        """
        # ASCII only: a model's output may hold half of a surrogate pair, which UTF-8 cannot.
        data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        # To the disk itself once a second: each time would hold up the writer for as long.
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Wait until everything is on disk, and close. May be called twice."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of every line for :func:`row_of`; none of a file that is not there."""
    if path.exists():
        with path.open("rb") as lines:
            yield from enumerate(lines, start=1)


def row_of(line: bytes) -> Any:
    """What a line holds.

    Raises:
        ValueError: it is torn, or not JSON.

    """
    if not line.endswith(b"\n"):
        raise ValueError("the line is torn: it has no end")
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("too deeply nested") from error


def keep_rows(path: Path, keep: Callable[[Any], bool]) -> int:
    """Leave only rows that ``keep`` accepts, at once or not at all; a line without a row goes, too.

    Returns how many lines went.
    """
    lines = [line for _, line in lines_of(path)]
    kept = [line for line in lines if _accepted(line, keep)]
    if kept != lines:
        with atomic_path(path) as partial:
            partial.write_bytes(b"".join(kept))
    return len(lines) - len(kept)


def _accepted(line: bytes, keep: Callable[[Any], bool]) -> bool:
    try:
        return keep(row_of(line))
    except ValueError:
        return False
