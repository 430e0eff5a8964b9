"""Overrides of a command line as they were typed: text stays text, whatever else its characters could mean.

Hydra reads ``run=2025_11_25`` as a number, ``run=true`` as a truth value, and refuses a path with ``=``, ``(`` or a
comma. What a setting is, its type says: the value of a text setting is put into quotes before Hydra reads it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from hydra.core.override_parser.types import Quote, QuotedString

from pipelines.config.constraints import ConfigError
from pipelines.config.schema import setting

Kind = Literal["text", "optional text", "texts", "table of texts", "other"]

_CLOSING = {"[": "]", "{": "}", "(": ")"}


def kind_of(key: str) -> Kind:
    """What a setting holds, as far as quoting goes, by its dotted key; ``other`` for what is not text or unknown."""
    found, _ = setting(key)
    optional = get_origin(found) in (Union, UnionType)
    if optional:
        found = next(member for member in get_args(found) if member is not NoneType)
    if found is str:
        return "optional text" if optional else "text"
    if get_origin(found) is list and get_args(found) == (str,):
        return "texts"
    return "table of texts" if get_origin(found) is dict and get_args(found)[1] is str else "other"


def as_typed(override: str) -> str:
    """An override with the text in it quoted for Hydra. What stands in quotes already is the user's own quoting.

    ``null`` stays Hydra's null where the setting may be empty. ``${...}`` still refers to another setting.
    """
    name, equals, value = override.partition("=")
    key = name.lstrip("+")
    kind = kind_of(key)
    if not equals or not value or kind == "other" or (kind == "optional text" and value == "null"):
        return override
    if kind in ("text", "optional text"):
        return f"{name}={quoted(value)}"
    opening = "[" if kind == "texts" else "{"
    inside = value.strip()
    if not (inside.startswith(opening) and inside.endswith(_CLOSING[opening])):
        return override
    parts = list(_split(inside[1:-1]))
    if kind == "table of texts":
        pairs = [part.partition(":") for part in parts]
        if not all(colon for _, colon, _ in pairs):
            return override
        return f"{name}={{{','.join(f'{left.strip()}:{quoted(right.strip())}' for left, _, right in pairs)}}}"
    return f"{name}=[{','.join(quoted(part.strip()) for part in parts)}]"


def quoted(text: str) -> str:
    """Text in the quotes in which Hydra takes it for what it is."""
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def _split(text: str) -> Iterator[str]:
    """Elements of a list as it was typed: cut at commas that stand in no quotes and no brackets."""
    part, inside, closing = "", "", [""]
    for character in text:
        if inside:
            inside = "" if character == inside and not part.endswith("\\") else inside
        elif character in "'\"" and not part.strip():
            # A quote opens an element; an apostrophe within one is a letter.
            inside = character
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif character == closing[-1]:
            closing.pop()
        elif character == "," and len(closing) == 1:
            yield part
            part = ""
            continue
        part += character
    if part.strip():
        yield part


def arguments_of(command_line: Sequence[str]) -> list[str]:
    """The arguments, with those of a line in the place of ``--args=<line>``, which is what `make ... ARGS=` passes on.

    The line is cut at blanks, with a shell's quotes and nothing else of a shell: ``(``, ``#``, ``~`` and ``$`` are
    letters.

    Raises:
        ConfigError: a quote that is never closed.

    """
    arguments: list[str] = []
    for argument in command_line:
        flag, equals, line = argument.partition("=")
        if flag != "--args" or not equals:
            arguments.append(argument)
            continue
        lexer = shlex.shlex(line, posix=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            arguments += lexer
        except ValueError as error:
            raise ConfigError(
                f"ARGS={line!r} has a quote that is never closed: put a value with an apostrophe into double quotes"
            ) from error
    return arguments
