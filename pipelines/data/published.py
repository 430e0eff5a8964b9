"""The published RM-R1 sets: rows that carry the whole prompt (``context_messages``) and the winner, and hub names.

The prompt of such a row is used as it is, so a pair has only the order in which it was published.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.data.schema import DataError, Message, PreferencePair, messages_of, plain_messages

log = logging.getLogger(__name__)

WINNERS = {"model_a": "A", "model_b": "B"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILE = re.compile(r".*\.(jsonl?|parquet)(\.\w+)?", re.IGNORECASE)


def is_hub_name(name: str) -> bool:
    """Whether a string could be ``owner/dataset`` and not a path."""
    return bool(_HUB_NAME.fullmatch(name)) and not _FILE.fullmatch(name)


def hub_version(name: str) -> str | None:
    """What tells one state of a hub dataset from another; None where the hub and the cache do not say."""
    from datasets import load_dataset_builder

    try:
        return f"version {load_dataset_builder(name).hash}"
    except Exception as error:  # Whatever it is, reading the rows will meet it and say so.
        log.info("dataset %s: its version is unknown: %s", name, error)
        return None


def hub_rows(name: str, split: str = "train") -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers, from 1, and rows of one split of a hub dataset.

    Raises:
        DataError: it cannot be loaded; names it and the reason.

    """
    from datasets import load_dataset

    try:
        yield from enumerate((dict(row) for row in load_dataset(name, split=split)), start=1)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"dataset {name}, split {split!r}: cannot be loaded: {reason}. Give the path of a .jsonl or "
            ".parquet file, or a hub name that this machine can reach"
        ) from error


def is_published(row: Any) -> bool:
    """Whether a row has the published form."""
    return isinstance(row, Mapping) and "context_messages" in row and "winner" in row


def conversation(row: Mapping[str, Any], place: str) -> list[dict[str, str]]:
    """The row's prompt as plain messages.

    Raises:
        DataError: it is not a list of messages that ends with the user's.

    """
    return plain_messages(messages_of(row["context_messages"], place, "context_messages"))


def published_pair(row: Mapping[str, Any], place: str, number: int) -> PreferencePair:
    """A pair whose prompt is ready made and whose responses stand inside it.

    Raises:
        DataError: a winner that is neither side, or a malformed conversation.

    """
    messages = conversation(row, place)
    if row["winner"] not in WINNERS:
        raise DataError(f"{place}, field 'winner': {row['winner']!r} is neither side; write 'model_a' or 'model_b'")
    side = WINNERS[row["winner"]]
    better, worse = (f"[answer of Chatbot {name}, in the prompt]" for name in (side, "B" if side == "A" else "A"))
    return PreferencePair(
        id=f"row-{number}",
        source="published",
        domain="all",
        prompt=tuple(Message(message["role"], message["content"]) for message in messages),  # type: ignore[arg-type]
        chosen=better,
        rejected=worse,
        metadata={"context_messages": messages, "winner": side},
    )
