"""The preference pair: one schema for every source, validated row by row, stored as parquet."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from actors.errors import UserError
from actors.files import atomic_path
from actors.messages import Side
from pipelines.data.text import beside_text, first_fault, part_beside_text, role_of, text_of_parts, unicode_fault

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = ("system", "user", "assistant")
MAX_CHARACTERS = 1_000_000
"""Characters of one text. Longer ones are no answers but files that went astray; a judge's whole context holds less."""


class DataError(UserError, ValueError):
    """A data file or row cannot be used; names the file, the row, the field and the remedy."""


class BadRows:
    """What becomes of rows that cannot be used: the first one ends the reading, or all are left out and counted."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.skipped: list[str] = []
        """The message of every row left out."""

    def take(self, error: DataError) -> None:
        """Deal with one bad row.

        Raises:
            DataError: ``error``, unless bad rows are skipped.

        """
        if not self.skip:
            raise error
        self.skipped.append(str(error))


FAIL = BadRows()
"""For readers that take no bad row; it never collects any."""


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
    given_label: Side | None = None
    """Where its file showed the chosen response, if it said so; `data.orders` decides where a judge will see it."""

    @property
    def ready_made(self) -> bool:
        """Whether the prompt came whole, with both responses inside it and an order that cannot be changed."""
        return "context_messages" in self.metadata


def validate(row: Mapping[str, Any], *, place: str, number: int = 1) -> PreferencePair:
    """A checked pair from a row of a file.

    ``place`` names file and row in messages; ``number`` makes an id for a row that has none. A row states either
    ``chosen`` and ``rejected``, or ``response_a``, ``response_b`` and ``label`` (``A`` or ``B``).

    Raises:
        DataError: naming place, field and remedy.

    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: a row must be an object with fields, not {type(row).__name__}")
    prompt = conversation_of(row.get("prompt"), place)
    chosen, rejected = _responses(row, place)
    if chosen.strip() == rejected.strip():
        raise DataError(f"{place}: both responses are equal, so neither is better: remove the row")
    metadata = row.get("metadata")
    if not isinstance(metadata, Mapping | None):
        raise DataError(f"{place}, field 'metadata': must be an object, not {type(metadata).__name__}; or leave it out")
    return PreferencePair(
        id=_identifier(row.get("id"), place, number),
        source=text_field(row, "source", place, default="user"),
        domain=text_field(row, "domain", place, default="all"),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        metadata=dict(metadata or {}),
        given_label=row["label"] if _states_sides(row) else None,
    )


def _states_sides(row: Mapping[str, Any]) -> bool:
    """Whether a row tells its responses apart by side and label, not by which is the better one."""
    unsaid = row.get("chosen") is None and row.get("rejected") is None
    return unsaid and bool({"label", "response_a", "response_b"} & row.keys())


def _identifier(value: Any, place: str, number: int) -> str:
    if value is None:
        return f"row-{number}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{place}, field 'id': must be text or a whole number, not {value!r}; leave it out to number rows"
        )
    _check_text(value, f"{place}, field 'id'")
    return value


def text_field(row: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    """A field that must be text.

    Raises:
        DataError: it is missing without a default, not text, too long, or no valid Unicode.

    """
    value = row.get(name, default)
    if value is None and default is not None:
        return default
    if value is None:
        # A parquet row has every column of its file; only those with a value help to find the mistake.
        present = ", ".join(sorted(str(key) for key, cell in row.items() if cell is not None)) or "nothing"
        raise DataError(f"{place}: field {name!r} is missing (the row has: {present}): add it, or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{place}, field {name!r}: must be text, not {type(value).__name__}")
    _check_text(value, f"{place}, field {name!r}")
    return value


def _check_text(text: str, where: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise DataError(
            f"{where}: {len(text):,} characters, and at most {MAX_CHARACTERS:,} are taken: shorten or remove the row"
        )
    if fault := unicode_fault(text):
        raise DataError(f"{where}: {fault}: repair or remove the row")


def check_unicode(row: Any, place: str) -> None:
    """Hold every text of a row to valid Unicode, whether or not it is read later.

    Raises:
        DataError: one is not; names place and field.

    """
    if found := first_fault(row):
        raise DataError(f"{place}, field {found[0]!r}: {found[1]}: repair or remove the row")


def _responses(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    if _states_sides(row):
        label = row.get("label")
        if label not in ("A", "B"):
            for name in ("response_a", "response_b"):  # of a file without labels, this is what is wrong
                text_field(row, name, place)
            raise DataError(f"{place}, field 'label': {label!r} is neither side; write 'A' or 'B'")
        better, worse = ("response_a", "response_b") if label == "A" else ("response_b", "response_a")
    else:
        better, worse = "chosen", "rejected"
    texts = text_field(row, better, place), text_field(row, worse, place)
    for name, text in zip((better, worse), texts, strict=True):
        if not text.strip():
            raise DataError(f"{place}, field {name!r}: the response is empty: remove the row")
    return texts


def conversation_of(value: Any, place: str) -> tuple[Message, ...]:
    """A row's prompt: a list of messages as :func:`messages_of` takes it, or the one text of a user."""
    return messages_of([{"role": "user", "content": value}] if isinstance(value, str) else value, place)


def messages_of(value: Any, place: str, field: str = "prompt") -> tuple[Message, ...]:
    """A conversation that ends with the user, from a list of ``{role, content}`` messages.

    Raises:
        DataError: it is none; names ``place``, field, message and remedy.

    """
    where = f"{place}, field {field!r}"
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where}: must be a list of {{role, content}} messages")
    messages = []
    for index, message in enumerate(value):
        content = text_of_parts(message.get("content")) if isinstance(message, Mapping) else None
        if isinstance(content, list | tuple) and (other := next(filter(None, map(part_beside_text, content)), None)):
            raise DataError(f"{where}, message {index + 1}: {other!r} cannot be shown to a judge: remove the row")
        if not isinstance(content, str):
            raise DataError(f"{where}, message {index + 1}: needs text fields 'role' and 'content'")
        if (role := role_of(message.get("role"))) not in ROLES:
            raise DataError(f"{where}, message {index + 1}: role {role!r} is not one of {', '.join(ROLES)}")
        if hidden := beside_text(message):
            raise DataError(f"{where}, message {index + 1}: {hidden!r} cannot be shown to a judge: remove the row")
        _check_text(content, f"{where}, message {index + 1}")
        messages.append(Message(cast(Role, role), content))
    if messages[-1].role != "user":
        raise DataError(f"{where}: the last message must be the user's, not the {messages[-1].role}'s")
    if not messages[-1].content.strip():
        raise DataError(f"{where}: the user's last message is empty")
    return tuple(messages)


def plain_messages(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages as chat templates and files take them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def normalised(text: str) -> str:
    """Lower case, runs of white space as one space: what counts as the same text."""
    return " ".join(text.lower().split())


def prompt_key(pair: PreferencePair) -> str:
    """SHA-256 of the conversation, case and white space aside: equal for pairs that ask the same."""
    turns = [f"{message.role}\x1f{normalised(message.content)}" for message in pair.prompt]
    return hashlib.sha256("\x1e".join(turns).encode()).hexdigest()


def content_key(pair: PreferencePair) -> str:
    """SHA-256 of conversation and both responses, whichever is the better one."""
    responses = sorted((normalised(pair.chosen), normalised(pair.rejected)))
    return hashlib.sha256("\x1e".join([prompt_key(pair), *responses]).encode()).hexdigest()


def write_pairs(pairs: Iterable[PreferencePair], path: Path) -> None:
    """Write pairs as a parquet file, at once or not at all; ``metadata`` becomes a column of JSON text."""
    from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    rows = [
        {
            "id": pair.id,
            "source": pair.source,
            "domain": pair.domain,
            "prompt": plain_messages(pair.prompt),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "metadata": json.dumps(dict(pair.metadata), sort_keys=True),
        }
        for pair in pairs
    ]
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with atomic_path(path) as partial:
            Dataset.from_list(rows).to_parquet(str(partial))
    finally:
        if not quiet:
            enable_progress_bars()


def read_rows(path: Path, bad_rows: BadRows = FAIL) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers, from 1, and rows of a parquet file; a ``metadata`` column of JSON text becomes objects.

    Raises:
        DataError: the file is missing or not parquet, or metadata are not JSON.

    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path} is not there: give the path of a parquet file of preference pairs")
    try:
        file = pq.ParquetFile(path)
        if twice := [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]:
            raise DataError(f"{path}: has the column {twice[0]!r} twice: write it with one of them")
        yield from _parquet_rows(file.iter_batches(batch_size=1000), path, bad_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet, write it again: {str(error).splitlines()[0]}") from error


def _parquet_rows(batches: Iterable[Any], path: Path, bad_rows: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    start = 1
    for batch in batches:
        for offset in range(batch.num_rows):
            place = f"{path}, row {start + offset}"
            try:
                row = batch.slice(offset, 1).to_pylist()[0]
                if isinstance(row.get("metadata"), str):
                    row["metadata"] = json.loads(row["metadata"])
                    check_unicode(row["metadata"], f"{place}, field 'metadata'")
            except DataError as error:
                bad_rows.take(error)
            except UnicodeDecodeError as error:
                bad_rows.take(DataError(f"{place}: not UTF-8 ({error.reason}): repair or remove the row"))
            except (ValueError, RecursionError) as error:
                bad_rows.take(DataError(f"{place}, field 'metadata': malformed JSON: {error}"))
            else:
                yield start + offset, row
        start += batch.num_rows


def read_pairs(path: Path) -> list[PreferencePair]:
    """Pairs as :func:`write_pairs` wrote them.

    Raises:
        DataError: the file is missing or damaged, or a row is not a pair.

    """
    return [validate(row, place=f"{path}, row {number}", number=number) for number, row in read_rows(path)]
