"""The question of a row: which columns known forms state it in, how they are joined, and that none is lost.

A form reads the columns it knows. Any other column that by its name could be part of the question must be found in
the pair that was read, or the row is refused: a judge must not be asked about answers to a question it was not shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pipelines.data.schema import DataError, normalised
from pipelines.data.text import beside_text, role_of, text_of_parts

Turn = dict[str, Any]
"""A message as a file states it, with ``role`` and ``content``."""

QUESTIONS = ("prompt", "instruction", "question", "query", "messages", "conversations", "input")
"""Columns that state the question; the first that a row has is read."""
TEXTUAL = {
    *QUESTIONS,
    *("system", "system_prompt", "system_message", "history", "chat_history", "conversation_history"),
    *("conversation", "dialog", "dialogue", "context", "contexts", "document", "documents", "passage", "passages"),
    *("background", "persona", "tools", "functions", "few_shot", "examples", "demonstrations"),
}
"""Columns that could be part of the question."""
_ALSO = (
    *("article", "text", "post", "story", "paragraph", "turn", "sys", "preamble", "knowledge", "evidence", "premise"),
    *("choice", "option", "table", "scenario", "search_result", "snippet", "attachment", "user_input"),
)
"""More names, by which no form states anything."""
_MEDIA = ("image", "video", "audio", "picture", "pixel")
_MEANS = r"(text|content|string|message|prompt|input|title|body|url|path|byte|value)?s?"
_SUSPECT = re.compile(
    f"({'|'.join(sorted({name.replace('_', '').rstrip('s') for name in (*TEXTUAL, *_ALSO, *_MEDIA)}))})s?{_MEANS}"
)
_MEDIUM = re.compile(f"({'|'.join(_MEDIA)}).*")
_NOTHING = ("", "[]", "{}", "null", "None", "nan")
"""What tables write where a row has no value."""


def response_of(value: Any, where: str) -> Any:
    """The text of a response that is one message of the assistant; anything else as it is.

    Raises:
        DataError: the message says something beside its text; names ``where``.

    """
    if not isinstance(value, Mapping) or (turn := as_turn(value))["role"] != "assistant":
        return value
    if hidden := beside_text(turn):
        raise DataError(f"{where}: {hidden!r} cannot be shown to a judge: remove the row")
    return turn["content"]


def as_turn(message: Any) -> Turn:
    """A message with ``role`` and ``content``, also from ShareGPT's ``from`` and ``value`` or in OpenAI's parts."""
    if not isinstance(message, Mapping):
        return {"role": None, "content": message}
    role, content = message.get("role") or message.get("from"), message.get("content")
    value = message.get("value") if content is None else content
    # What else a message holds is kept for the schema, which refuses calls of tools and images.
    return {**message, "role": role_of(role), "content": text_of_parts(value)}


def question_of(row: Mapping[str, Any], place: str) -> list[Turn]:
    """The conversation that a row states outside its responses; empty where it states none.

    ``system`` comes first, then ``history`` (messages, or pairs of a question and its answer), then the first of
    :data:`QUESTIONS`, a text or a list of messages. ``input`` follows ``instruction`` after a blank line.

    Raises:
        DataError: parts that do not go together; names place and field.

    """
    name = next((name for name in QUESTIONS if row.get(name)), None)
    asked = row[name] if name else []
    if name == "instruction" and isinstance(asked, str) and isinstance(row.get("input"), str) and row["input"]:
        asked = f"{asked}\n\n{row['input']}"
    if not isinstance(asked, list | tuple):
        asked = [{"role": "user", "content": asked}]
    turns = [as_turn(turn) for turn in asked]
    if history := row.get("history"):
        turns = joined(_history(history, place), turns, f"{place}, field 'history'")
    system = row.get("system")
    if system and not _is_blank(system):
        turns = joined([{"role": "system", "content": system}], turns, f"{place}, field 'system'")
    return turns


def _history(value: Any, place: str) -> list[Turn]:
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        return [as_turn(item) for item in value]
    if isinstance(value, list | tuple) and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        pairs = [(("user", asked), ("assistant", answered)) for asked, answered in value]
        return [{"role": role, "content": content} for pair in pairs for role, content in pair]
    raise DataError(
        f"{place}, field 'history': must be messages, or pairs of a question and its answer; put it into 'prompt' as "
        "messages, or leave it out with data.ignore_columns=[history]"
    )


def joined(before: Sequence[Turn], after: Sequence[Turn], where: str) -> list[Turn]:
    """One conversation of two parts: what both state is in it once, and ``after`` may go on where ``before`` ends.

    Raises:
        DataError: they are neither of one conversation nor does one go on with the other.

    """
    first, second = [turn_key(turn) for turn in before], [turn_key(turn) for turn in after]
    if any(second[start : start + len(first)] == first for start in range(len(second) - len(first) + 1)):
        return list(after)
    for shared in range(min(len(first), len(second)), 0, -1):
        if first[-shared:] == second[:shared]:
            return [*before, *after[shared:]]
    if after and (after[0]["role"] == "system" or after[0]["role"] == before[-1]["role"]):
        raise DataError(
            f"{where}: the conversation does not go on with it: a message of role {after[0]['role']!r} follows one of "
            f"role {before[-1]['role']!r}; write the whole conversation into 'prompt', or remove the row"
        )
    return [*before, *after]


def turn_key(turn: Turn) -> tuple[Any, Any]:
    """What makes two messages the same one: role, and content but for white space around it."""
    content = turn["content"]
    return turn["role"], content.strip() if isinstance(content, str) else content


def check_all_read(row: Mapping[str, Any], prompt: Sequence[str], answers: Sequence[str], place: str) -> None:
    """Hold a row to what was read of it: no column that could be part of the question may be lost.

    Such a column may lie in an object too (``info.post``). What an assistant says in it may stand in the answers, and a
    text may be one of them; everything else must stand in the prompt.

    Raises:
        DataError: a column's text is not there; names place, column and remedy.

    """
    parts: dict[tuple[str, ...], Any] = {
        (name,): row[name] for name in _suspects(tuple(row)) if row[name] and not _is_blank(row[name])
    }
    # By far the most rows state their question in `prompt` alone.
    if parts.keys() == {("prompt",)} and _contents(row["prompt"]) == prompt:
        parts.clear()
    # `metadata` is the field of our own form for what is not shown.
    parts |= {
        (name, key): value[key]
        for name, value in row.items()
        if isinstance(value, Mapping) and name != "metadata" and (name,) not in parts
        for key in _suspects(tuple(value))
        if value[key] and not _is_blank(value[key])
    }
    if not parts:
        return
    asked = "\n".join(prompt)
    everything = "\n".join((asked, *answers))
    lost = [
        name
        for name, value in parts.items()
        if _MEDIUM.fullmatch(_squeezed(name[-1]))
        or not all(
            stands_in(text, everything if answer else asked) or text in answers for text, answer in _texts(value)
        )
    ]
    if lost:
        columns = ",".join(dict.fromkeys(name[0] for name in lost))
        raise DataError(
            f"{place}, field {'.'.join(lost[0])!r}: could be part of the question, which would be judged without it; "
            f"put it into the conversation, or leave it out of every row with data.ignore_columns=[{columns}]"
        )


def _contents(value: Any) -> list[Any]:
    """The texts of a prompt as files state it: a text, or messages."""
    return [as_turn(turn)["content"] for turn in value] if isinstance(value, list) else [value]


def without(row: Any, names: Sequence[str], ignored: Counter[str]) -> Any:
    """A row without these columns; counts in ``ignored`` where one had a value."""
    if not names or not isinstance(row, Mapping):
        return row
    ignored.update(name for name in names if row.get(name))
    return {key: value for key, value in row.items() if key not in names}


@lru_cache(maxsize=1024)
def _suspects(names: tuple[Any, ...]) -> list[Any]:
    return [name for name in names if isinstance(name, str) and _SUSPECT.fullmatch(_squeezed(name))]


def _squeezed(name: str) -> str:
    """A name in small letters without what joins its words: ``systemPrompt`` and ``System prompt`` are one name."""
    return re.sub(r"[\W_]", "", name.lower())


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and value.strip() in _NOTHING


def _texts(value: Any) -> Iterator[tuple[str, bool]]:
    """Every text of a column, and whether an assistant says it."""
    if isinstance(value, str):
        yield value, False
    elif isinstance(value, Mapping) and (turn := as_turn(value))["content"] is not None:
        for text, _ in _texts(turn["content"]):
            yield text, turn["role"] == "assistant"
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def stands_in(text: str, whole: str) -> bool:
    """Whether a text is part of another, case and white space aside."""
    return text.strip() in whole or normalised(text) in normalised(whole)
