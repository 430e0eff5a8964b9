"""Overrides of a command line as they were typed: text stays text, whatever else its characters could mean.

Hydra reads ``run=2025_11_25`` as a number, ``run=true`` as a truth value, and refuses a path with ``=``, ``(`` or a
comma. What a setting is, its type says: the value of a text setting is put into quotes before Hydra reads it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import Quote, QuotedString

from pipelines.config.constraints import ConfigError
from pipelines.config.schema import setting

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\()[]{}:=, \t"})


def as_typed(override: str) -> str:
    """An override with the text in it quoted for Hydra. What stands in quotes already is the user's own quoting.

    ``null`` stays Hydra's null where the setting may be empty. ``${...}`` still refers to another setting.
    """
    name, equals, value = override.partition("=")
    return f"{name}={_typed(setting(name.lstrip('+'))[0], value)}" if equals and value else override


def _typed(kind: Any, value: str) -> str:
    """A value of this type, with quotes around every text in it."""
    optional = get_origin(kind) in (Union, UnionType)
    if optional and value == "null":
        return value
    kind = next(member for member in get_args(kind) if member is not NoneType) if optional else kind
    if kind is str:
        return quoted(value)
    inside = value.strip()
    if get_origin(kind) is list and not inside.startswith("${"):
        (item,) = get_args(kind)
        # A list may come without its brackets, as one item mostly does.
        items = inside[1:-1] if inside.startswith("[") and inside.endswith("]") else inside
        return f"[{','.join(_typed(item, part.strip()) for part in _split(items))}]"
    if not (inside.startswith("{") and inside.endswith("}")):
        return value
    parts = [(next(_split(part, ":"), ""), part) for part in _split(inside[1:-1])]
    entries = [(key.strip(), part[len(key) + 1 :].strip()) for key, part in parts]
    if get_origin(kind) is dict:
        return f"{{{','.join(f'{_as_key(key)}:{_typed(get_args(kind)[1], entry)}' for key, entry in entries)}}}"
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return f"{{{','.join(f'{key}:{_typed(hints.get(key), entry)}' for key, entry in entries)}}}"
    return value


def _as_key(key: str) -> str:
    """A key of a table in a form that Hydra takes for text, even a number: with an escaped blank before it."""
    if len(key) > 1 and key[0] in "'\"" and key[-1] == key[0]:
        key = key[1:-1]
    return "\\ " + key.translate(_ESCAPED)


def quoted(text: str) -> str:
    """Text in the quotes in which Hydra takes it for what it is."""
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return text
    return QuotedString(text, Quote.single).with_quotes()


def _split(text: str, at: str = ",") -> Iterator[str]:
    """Elements of a list as it was typed: cut at commas that stand in no quotes and no brackets."""
    part, inside, closing = "", "", [""]
    for character in text:
        if inside:
            inside = "" if character == inside and not part.endswith("\\") else inside
        elif character in "'\"" and part.strip()[-1:] in ("", ":"):
            # A quote opens an element, or its value after a key; an apostrophe within one is a letter.
            inside = character
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif character == closing[-1]:
            closing.pop()
        elif character == at and len(closing) == 1:
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
