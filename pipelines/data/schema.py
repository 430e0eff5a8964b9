"""The preference pair: one schema for every source, validated row by row, stored as parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")


class DataError(ValueError):
    """A data file or row cannot be used; names the file, the row, the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A conversation that ends with the user, and two answers of which one is better."""

    id: str
    source: str
    domain: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values; the built-in family keeps here what its answers can be checked with."""


def validate(row: Mapping[str, Any], *, place: str, number: int = 1) -> PreferencePair:
    """A checked pair from a row of a file.

    ``place`` names file and row in messages; ``number`` makes an id for a row that has none. A row states either
    ``chosen`` and ``rejected``, or ``response_a``, ``response_b`` and ``label`` (``A`` or ``B``).

    Raises:
        DataError: naming place, field and remedy.

    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    prompt = _conversation(row.get("prompt"), place)
    chosen, rejected = _responses(row, place)
    if chosen.strip() == rejected.strip():
        raise DataError(f"{place}: both responses are equal, so neither is better: remove the row")
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise DataError(f"{place}, field 'metadata': must be an object, not {type(metadata).__name__}")
    return PreferencePair(
        id=str(row["id"]) if row.get("id") is not None else f"row-{number}",
        source=_text(row, "source", place, default="user"),
        domain=_text(row, "domain", place, default="all"),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        metadata=dict(metadata),
    )


def _text(row: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if value is None and default is not None:
        return default
    if value is None:
        raise DataError(f"{place}: field {name!r} is missing (the row has: {', '.join(sorted(row)) or 'nothing'})")
    if not isinstance(value, str):
        raise DataError(f"{place}, field {name!r}: must be text, not {type(value).__name__}")
    return value


def _responses(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    if "chosen" not in row and "label" in row:
        label = row["label"]
        if label not in ("A", "B"):
            raise DataError(f"{place}, field 'label': {label!r} is neither side; write 'A' or 'B'")
        better, worse = ("response_a", "response_b") if label == "A" else ("response_b", "response_a")
    else:
        better, worse = "chosen", "rejected"
    texts = _text(row, better, place), _text(row, worse, place)
    for name, text in zip((better, worse), texts, strict=True):
        if not text.strip():
            raise DataError(f"{place}, field {name!r}: the response is empty: remove the row")
    return texts


def _conversation(value: Any, place: str) -> tuple[Message, ...]:
    where = f"{place}, field 'prompt'"
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where}: must be a list of {{role, content}} messages")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise DataError(f"{where}, message {index + 1}: needs text fields 'role' and 'content'")
        if message.get("role") not in ROLES:
            raise DataError(
                f"{where}, message {index + 1}: role {message.get('role')!r} is not one of {', '.join(ROLES)}"
            )
        messages.append(Message(cast(Role, message["role"]), message["content"]))
    if messages[-1].role != "user":
        raise DataError(f"{where}: the last message must be the user's, not the {messages[-1].role}'s")
    if not messages[-1].content.strip():
        raise DataError(f"{where}: the user's last message is empty")
    return tuple(messages)


def _normalised(text: str) -> str:
    return " ".join(text.lower().split())


def prompt_key(pair: PreferencePair) -> str:
    """SHA-256 of the conversation, case and white space aside: equal for pairs that ask the same."""
    turns = [f"{message.role}\x1f{_normalised(message.content)}" for message in pair.prompt]
    return hashlib.sha256("\x1e".join(turns).encode()).hexdigest()


def content_key(pair: PreferencePair) -> str:
    """SHA-256 of conversation and both responses, whichever is the better one."""
    responses = sorted((_normalised(pair.chosen), _normalised(pair.rejected)))
    return hashlib.sha256("\x1e".join([prompt_key(pair), *responses]).encode()).hexdigest()


def write_pairs(pairs: Iterable[PreferencePair], path: Path) -> None:
    """Write pairs as a parquet file, at once or not at all; ``metadata`` becomes a column of JSON text."""
    from datasets import Dataset

    rows = [
        {
            "id": pair.id,
            "source": pair.source,
            "domain": pair.domain,
            "prompt": [{"role": message.role, "content": message.content} for message in pair.prompt],
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "metadata": json.dumps(dict(pair.metadata), sort_keys=True),
        }
        for pair in pairs
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        Dataset.from_list(rows).to_parquet(str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_pairs(path: Path) -> list[PreferencePair]:
    """Pairs as :func:`write_pairs` wrote them."""
    import pyarrow.parquet as pq

    pairs = []
    for number, row in enumerate(pq.read_table(path).to_pylist(), start=1):
        row["metadata"] = json.loads(row["metadata"])
        pairs.append(validate(row, place=f"{path}, row {number}", number=number))
    return pairs
