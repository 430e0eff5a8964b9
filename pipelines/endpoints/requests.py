"""What is asked of a teacher and what it answers: plain records, and the key that makes a request recognisable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.verifier.sections import open_thought
from pipelines.config import Teacher

FIRST_PASS = 0
"""The round of the first pass; those of the second count from 1."""
TOKENS_PER_BYTE = 1 / 3
"""More than English (a quarter) and code take; a Chinese character has three bytes and is about one token."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for."""

    key: str
    """SHA-256 of all that decides the answer: model, sampling, messages, seed and sample."""
    prompt_uid: str
    """``<pair id>/<order>``"""
    round: int
    sample: int
    messages: Sequence[Mapping[str, str]]
    seed: int
    """Of this request alone, from its key; 31 bits, which every endpoint takes."""

    @property
    def size(self) -> int:
        """Bytes of the prompt, to estimate its tokens by."""
        return sum(len(message["content"].encode()) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished completion: paid for, and never asked for again."""

    key: str
    prompt_uid: str
    round: int
    sample: int
    text: str
    finish_reason: str
    """``stop``, or ``length`` where it is cut at the token limit, whatever the endpoint calls these."""
    model: str
    """As the endpoint names itself."""
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    """The endpoint stated no token counts, so they are estimated from lengths."""
    cost: float
    seconds: float
    attempts: int

    @property
    def tokens(self) -> int:
        """Of prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def chain(self) -> str:
        """The text as it is examined, shown and learned: trimmed, and with the opening of its thought.

        Servers whose chat template writes ``<think>`` into the prompt answer without it.
        """
        return open_thought(self.text.strip())


def build_request(
    teacher: Teacher,
    messages: Sequence[Mapping[str, str]],
    prompt_uid: str,
    round: int,
    sample: int,
    seed: int,
) -> Request:
    """A request and its key. Where it is sent (``base_url``) is no part of the key: a model may move."""
    decisive: dict[str, Any] = {
        "kind": teacher.kind,
        "model": teacher.model,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        "max_tokens": teacher.max_tokens,
        "extra_body": teacher.extra_body,
        "messages": list(messages),
        "prompt_uid": prompt_uid,
        "round": round,
        "sample": sample,
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return Request(key, prompt_uid, round, sample, messages, int(key[:8], 16) & 0x7FFFFFFF)


def estimated_tokens(size: int, per_byte: float = TOKENS_PER_BYTE) -> int:
    """Tokens of a text of so many UTF-8 bytes, before or without a count by the endpoint."""
    return int(size * per_byte) + 1


def cost_of(teacher: Teacher, prompt_tokens: int, completion_tokens: int) -> float:
    """Money, by the prices for a million tokens."""
    return (prompt_tokens * teacher.input_price + completion_tokens * teacher.output_price) / 1e6
