"""The journal of answers: one JSON line each, written before anything else is done with it.

A run that was killed finds in it every request that was finished, by key, and asks only for the others; a machine that
loses its power may lose the last second's. A last line that is torn is cut off; damage anywhere else is an error,
because it would mean paying twice unseen. A row that is no whole answer, as older versions kept them, is left where it
is and asked for again.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.jsonl import JsonLines, lines_of, row_of
from pipelines.data.schema import DataError
from pipelines.endpoints.answers import Completion, whole
from pipelines.endpoints.failures import AttemptFailed
from pipelines.endpoints.requests import Answer, Request

_TYPES = typing.get_type_hints(Answer)


class Journal:
    """Answers by key. Open it as a context manager to append; only one process may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.unusable: dict[str, str] = {}
        """Causes of the rows that are no whole answer, by key, while no later row answers the same request."""
        self.tokens = 0
        """Spent on all rows, those of interrupted runs and unusable ones included."""
        self.cost = 0.0
        """The same in money."""
        self._lines: JsonLines | None = None

    def __enter__(self) -> Self:
        """Read what is there and open for appending.

        Raises:
            DataError: a line other than a torn last one cannot be read; names it and the remedy.

        """
        self._lines = JsonLines(self.path)
        for number, line in lines_of(self.path):
            self._take(_read_line(line, f"{self.path}, line {number}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.close()

    def append(self, answer: Answer) -> None:
        """Keep an answer; when this returns no end of this process can lose it.

        Raises:
            OSError: it could not be written, for example because the disk is full.

        """
        assert self._lines is not None, "the journal is not open"
        self._lines.append(asdict(answer))
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        """Count a row, and hold its answer by the rule that every answer has passed before it was written."""
        self.tokens += answer.tokens
        self.cost += answer.cost
        try:
            kept = whole(Completion(answer.text, answer.finish_reason, answer.model, None, None))
        except AttemptFailed as failure:
            self.unusable[answer.key] = failure.cause
        else:
            self.unusable.pop(answer.key, None)
            self.answers[answer.key] = replace(answer, finish_reason=kept.finish_reason)

    def find(self, requests: Iterable[Request]) -> dict[str, Answer]:
        """The answers to those of the requests that are finished, by key."""
        return {item.key: self.answers[item.key] for item in requests if item.key in self.answers}


def set_aside(path: Path) -> Path | None:
    """Rename a journal so that a new one begins; what was paid for is never deleted. Returns its new path."""
    if not path.exists():
        return None
    aside = next(name for name in _numbered(path) if not name.exists())
    path.rename(aside)
    return aside


def _numbered(path: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


def _read_line(line: bytes, place: str) -> Answer:
    try:
        row = row_of(line)
    except ValueError as error:
        raise DataError(f"{place}: malformed JSON ({error}): {_REMEDY}") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: not an object: {_REMEDY}")
    for item in fields(Answer):
        value, wanted = row.get(item.name), _TYPES[item.name]
        fits = isinstance(value, int | float) if wanted is float else type(value) is wanted
        if not fits:
            raise DataError(f"{place}, field {item.name!r}: {value!r} is not {wanted.__name__}: {_REMEDY}")
    return Answer(**{item.name: row[item.name] for item in fields(Answer)})


_REMEDY = "remove the line to ask for that answer again, or move the file away to begin anew"
