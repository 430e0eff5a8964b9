"""The one check of text that enters from outside: files, templates, teachers' answers, what was journalled before.

JSON and YAML can state half of a surrogate pair, and Python holds it, but it is no Unicode: no tokenizer, hash, parquet
file or UTF-8 file takes it. Every other character is text, U+0000 included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROLES = {"developer": "system", "human": "user", "gpt": "assistant"}
"""What OpenAI and ShareGPT call the three roles."""
_TEXT_PARTS = ("text", "input_text", "output_text")
"""What OpenAI's two APIs call a part of text."""
_BESIDE_PART = ("cache_control", "annotations", "citations", "logprobs")
"""What a part of a message may say that is not for its reader."""
_NOT_SHOWN = ("tool_calls", "function_call", "image", "images", "audio", "video")


def beside_text(message: Mapping[str, Any]) -> str | None:
    """The field in which a message says something beside its text, or None."""
    return next((name for name in _NOT_SHOWN if message.get(name)), None)


def role_of(name: Any) -> Any:
    """A message's role by any of its names; what is none as it is."""
    return _ROLES.get(name, name) if isinstance(name, str) else name


def text_of_parts(content: Any) -> Any:
    """The text of a message whose content is a list of text parts, as OpenAI's clients write it; else as it is."""
    if not isinstance(content, list | tuple) or not content or any(part_beside_text(part) for part in content):
        return content
    return "".join(part["text"] for part in content)


def part_beside_text(part: Any) -> str | None:
    """What a part of a message is, where it is not text alone, such as ``image_url``; or None."""
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        return "no part with a type"
    if part["type"] not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        return str(part["type"])
    # A table states every kind's columns in each part, without a value.
    return next((name for name in part if name not in ("type", "text", *_BESIDE_PART) and part[name]), None)


def unicode_fault(text: str) -> str | None:
    """What keeps ``text`` from being valid Unicode, or None; for a message that says where the text stands."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start + 1} is half of a surrogate pair"
    return None


def first_fault(value: Any) -> tuple[str, str] | None:
    """The field and the fault of the first text in a value from JSON that is no valid Unicode, or None.

    A field is written as a path: ``messages.1.content`` counts items from 1. Keys are texts too.
    """
    remaining: list[tuple[str, Any]] = [("", value)]
    while remaining:
        path, item = remaining.pop()
        if isinstance(item, str):
            if fault := unicode_fault(item):
                return path, fault
        elif isinstance(item, Mapping | list | tuple):
            parts = list(item.items() if isinstance(item, Mapping) else enumerate(item, start=1))
            for key, part in reversed(parts):
                name = f"{path}.{key}".removeprefix(".")
                if isinstance(key, str) and (fault := unicode_fault(key)):
                    return ascii(name), fault
                remaining.append((name, part))
    return None
