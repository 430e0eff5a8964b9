"""The forms in which preference pairs are published: one module each, found by its name.

A module states :class:`Source`'s five names. A new form is one new file here; ``schema: <its name>`` reads it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from pipelines.data.schema import DataError, PreferencePair

OWN = "pairs"
"""The project's own form, which a row of no other form is held to."""


class RowDropped(Exception):
    """A sound row that yields no pair, for example a tie; says why. Counted in the data card, never an error."""


class Source(Protocol):
    """One published form."""

    HUB: str | None
    """Where the set lies on the hub; None: only files."""
    LEFT_OUT: tuple[str, ...]
    """Sources of pairs that are not used unless the mix asks for them."""
    FIRST_BETTER: Mapping[str, Any]
    """Columns that hold the label, with values that name the first response; empty where the responses' names do."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has this form; ``row`` holds only columns with a value."""

    def pair(self, row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
        """The pair of one row; ``place`` names file and row, ``number`` counts rows from 1.

        Raises:
            DataError: the row is bad; names place, field and remedy.
            RowDropped: the row is sound but yields no pair.

        """


@cache
def names() -> tuple[str, ...]:
    """Every known form."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def source(name: str) -> Source:
    """The form with this name.

    Raises:
        DataError: there is none.

    """
    if name not in names():
        raise DataError(f"there is no schema {name!r}: use auto, or one of {', '.join(names())}")
    return cast(Source, import_module(f"{__name__}.{name}"))


def recognise(row: Any) -> str | None:
    """The form of a row, or None where it has no known one."""
    if not isinstance(row, Mapping):
        return None
    present = {key: value for key, value in row.items() if value is not None}
    return next((name for name in names() if source(name).recognises(present)), None)


def first_better(row: Any) -> Any:
    """A row with a label that names the first response, whatever its own; as it is where its form is unknown."""
    if not isinstance(row, Mapping):
        return row
    for name in names():
        stated = {**row, **source(name).FIRST_BETTER}
        if source(name).recognises({key: value for key, value in stated.items() if value is not None}):
            return stated
    return row
