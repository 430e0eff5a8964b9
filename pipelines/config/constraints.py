"""Bounds and choices of settings, stated where the setting is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import Field, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from actors.errors import UserError


class ConfigError(UserError, ValueError):
    """A setting is unknown, has the wrong type, or cannot work with the others. Says what to change."""

    exit_status = 2


# Metadata of settings that hold paths, relative to where a command is given: what tells a path from another value.
PATH = MappingProxyType({"path": Path.exists})
"""A file or folder; or a name, such as that of a checkpoint on the hub."""
FILE = MappingProxyType({"path": Path.is_file})
"""A file; or a name, even where a folder happens to have the same one."""
OUTPUT = MappingProxyType({"path": lambda place: True})
"""A folder that is made where it is missing."""


def one_of(default: str, *others: str) -> Any:
    """A setting with a closed set of values."""
    return field(default=default, metadata={"choices": (default, *others)})


def location(default: str | None = None, kind: Mapping[str, Any] = PATH) -> Any:
    """A setting that holds a path: :data:`PATH`, :data:`FILE` or :data:`OUTPUT`."""
    return field(default=default, metadata=kind)


def number(
    default: float | None,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A setting with a range; None, where its type allows it, is always in range."""
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    return field(default=default, metadata={name: bound for name, bound in bounds.items() if bound is not None})


def violations(section: Any, prefix: str = "") -> Iterator[str]:
    """What breaks the bounds of a section or of those inside it, with the setting's name and its value."""
    for item in fields(section):
        name, value = prefix + item.name, getattr(section, item.name)
        if is_dataclass(value):
            yield from violations(value, f"{name}.")
        elif isinstance(value, dict):
            for key, entry in value.items():
                if is_dataclass(entry):
                    yield from violations(entry, f"{name}.{key}.")
        elif value is not None:
            yield from _violations_of(item, name, value)


def _violations_of(item: Field[Any], name: str, value: Any) -> Iterator[str]:
    bounds = item.metadata
    if "choices" in bounds and value not in bounds["choices"]:
        choices = list(bounds["choices"])
        yield f"{name}={value!r} is not one of {', '.join(choices)}{nearest(str(value), choices)}"
    held = {
        "at least": lambda bound: value >= bound,
        "above": lambda bound: value > bound,
        "at most": lambda bound: value <= bound,
        "below": lambda bound: value < bound,
    }
    # `not` of the bound that holds, so that NaN is out of every range.
    if any(kind in bounds and not holds(bounds[kind]) for kind, holds in held.items()):
        limits = " and ".join(f"{kind} {bounds[kind]:g}" for kind in held if kind in bounds)
        yield f"{name}={value} is out of range: it must be {limits}"


def nearest(name: str, candidates: list[str]) -> str:
    """`` did you mean 'x'?`` or nothing."""
    match = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    if not match:
        tail = name.rsplit(".", 1)[-1]
        match = [key for key in candidates if key.rsplit(".", 1)[-1] == tail][:1]
    return f"; did you mean {match[0]!r}?" if match else ""
