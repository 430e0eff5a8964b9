"""Votes of a judge in whatever mode: what each has, what it says in sections, and sums over many."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from actors.messages import JudgeMode
from actors.verifier.trace import parse


class Record:
    """A dataclass that is answered as JSON."""

    __slots__ = ()
    FIRST: ClassVar[tuple[str, ...]] = ()
    """Fields that are written before those that a class inherits."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return {name: _plain(getattr(self, name)) for name in dict.fromkeys((*self.FIRST, *names))}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote(Record):
    """One judgment, or why there is none. Each mode adds how it showed the responses and what was decided."""

    number: int
    """Which of the votes on its prompt, from 0."""
    cause: str | None
    """Why nothing could be read: a parse failure, ``prompt_too_long``, or what kept the engine from writing."""
    probability: float | None
    """Of the token that carries the answer, under the distribution it was sampled from; None where it has several."""
    text: str
    """What the judge wrote."""
    prompt_tokens: int
    completion_tokens: int
    prompt_hash: str
    """SHA-256 of the prompt's token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons(Record):
    """The sections of one judgment. A section that is missing or not closed is None."""

    type: str | None
    rubric: str | None
    solution: str | None
    evaluation: str | None
    text: str
    """The whole judgment."""

    @classmethod
    def of(cls, text: str, judged: JudgeMode, **own: Any) -> Self:
        """What a judgment says, and the fields that a mode adds."""
        parts = parse(text, judged)
        return cls(
            type=parts.task_type,
            rubric=parts.rubric,
            solution=parts.solution,
            evaluation=parts.evaluation,
            text=text,
            **own,
        )


def usage_of(votes: Sequence[Vote]) -> dict[str, int]:
    """``prompt_tokens``, ``completion_tokens`` and ``total_tokens`` of all votes."""
    read, written = sum(vote.prompt_tokens for vote in votes), sum(vote.completion_tokens for vote in votes)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def failures_of(votes: Sequence[Vote]) -> dict[str, int]:
    """Votes that could not be read, by cause."""
    return dict(Counter(vote.cause for vote in votes if vote.cause is not None))


def hash_of(*parts: Any) -> str:
    """SHA-256 of values, hexadecimal."""
    return hashlib.sha256(",".join(map(str, parts)).encode()).hexdigest()
