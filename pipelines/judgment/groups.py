"""Groups of responses from files: a row with all responses to a question, or a row per response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.data.question import QUESTIONS, check_all_read, question_of, response_of, without
from pipelines.data.rows import placed_rows
from pipelines.data.schema import BadRows, DataError, check_unicode, conversation_of, plain_messages
from pipelines.judgment.ranking import Group

MANY = ("responses", "completions", "candidates", "outputs")
"""Columns that hold all responses to a row's question."""
ONE = ("response", "completion", "output", "answer")
"""Columns that hold one response."""


def read_groups(
    path: str, on_bad_row: str = "fail", ignore: Sequence[str] = (), least: int = 2
) -> tuple[list[Group], list[str]]:
    """Groups in the order of the file, and the messages of bad rows that were skipped. ``ignore`` names columns.

    Raises:
        DataError: the file cannot be read, a row is bad (unless skipped), two questions have one ``prompt_id``, or a
            group has fewer than ``least``.

    """
    bad_rows = BadRows(skip=on_bad_row == "skip")
    groups: dict[str, tuple[str, list[dict[str, str]], list[str]]] = {}
    for place, number, row in placed_rows(path, bad_rows):
        try:
            check_unicode(row, place)
            messages, responses, whole = _row(without(row, ignore, Counter()), place)
            key = str(row.get("id") or number) if whole else str(messages)
            if whole and key in groups:
                raise DataError(f"{place}, field 'id': {key!r} is there twice: change one")
            name = key if whole else str(row.get("prompt_id") or f"row-{number}")
            groups.setdefault(key, (name, messages, []))[2].extend(responses)
        except DataError as error:
            bad_rows.take(error)
    found = [Group(name, messages, tuple(responses)) for name, messages, responses in groups.values()]
    if not found:
        raise DataError(f"{path} holds no responses: write rows with a question and {MANY[0]}, or one row per response")
    for group in found:
        if len(group.responses) < least:
            raise DataError(
                f"{path}: the group {group.id!r} has {len(group.responses)} responses, and at least {least} are needed"
            )
    for name, count in Counter(group.id for group in found).items():
        if count > 1:
            raise DataError(
                f"{path}: {count} questions have the same prompt_id {name!r}: give each its own, or leave it out"
            )
    return found, bad_rows.skipped


def _row(row: Any, place: str) -> tuple[list[dict[str, str]], list[str], bool]:
    """Question and responses of a row, and whether these are all there are to the question."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    columns = [name for name in (*MANY, *ONE) if row.get(name) is not None]
    if len(columns) != 1:
        raise DataError(
            f"{place}: needs one column of {', '.join(MANY)} (lists) or {', '.join(ONE)} (one response a row), has "
            f"{', '.join(columns) or 'none'}"
        )
    name = columns[0]
    value = row[name]
    responses = value if name in MANY else [value]
    if not isinstance(responses, list):
        raise DataError(f"{place}, field {name!r}: must be a list of responses, not {type(value).__name__}")
    texts = [response_of(item, f"{place}, field {name!r}") if isinstance(item, Mapping) else item for item in responses]
    for item in texts:
        if not isinstance(item, str) or not item.strip():
            raise DataError(f"{place}, field {name!r}: a response is {'empty' if item == '' else 'no text'}")
    others = {key: cell for key, cell in row.items() if key != name}
    question = question_of(others, place)
    if not question:
        present = ", ".join(sorted(str(key) for key, cell in others.items() if cell is not None)) or "nothing"
        raise DataError(f"{place}: no question in {', '.join(QUESTIONS)} (beside its {name} the row has: {present})")
    messages = conversation_of(question, place)
    check_all_read(others, [message.content for message in messages], texts, place)
    return plain_messages(messages), texts, name in MANY
