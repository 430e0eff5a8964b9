"""What a teacher's response comes to: a whole answer, or the cause why it is none. Pure, on the plain data of its JSON.

Endpoints that speak OpenAI's chat completions differ in how they say things. All of it is read here, and what counts
as a whole answer is decided here and nowhere else: before an answer is written to the journal, and of the rows of a
journal from before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.data.text import unicode_fault
from pipelines.endpoints.failures import AttemptFailed, reported

Part = Literal["message", "delta"]
"""What a choice holds: its whole message, or in a stream what is added to it."""

_ENDED = {
    *("stop", "eos", "eos_token", "stop_token", "stop_sequence", "end_turn", "end_of_turn", "end_of_text", "endoftext"),
    *("complete", "completed", "done", "finished"),
}
_CUT = {
    *("length", "max_tokens", "max_length", "max_output_tokens", "max_completion_tokens", "model_length"),
    *("token_limit", "model_context_window_exceeded"),
}
_SERVER = {
    *("error", "abort", "aborted", "cancelled", "canceled", "timeout", "time_limit", "load", "unload", "not_finished"),
    *("insufficient_system_resource", "other"),
}
_APART = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields of a message in which endpoints put what the model thought before it answered."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What one attempt brought. Token counts are None where the endpoint does not state them."""

    text: str
    finish_reason: str
    """As the endpoint gave it; empty where a response that came to its end gave none."""
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    apart: str = ""
    """Where text stands that is no part of the answer: ``reasoning_content``, for example; empty: there is none."""
    refusal: str = ""
    """The text with which the model declined, where the endpoint tells it from an answer."""


class Response:
    """A response in the making, from one whole body or from the chunks of a stream."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._pieces: list[str] = []
        self._refusal: list[str] = []
        self._apart = self._model = self._finish_reason = ""
        self._usage: Any = None
        self._index: Any = None

    def add(self, body: Any, part: Part) -> None:
        """Take in a body or a chunk. Of several choices only the first one counts.

        Raises:
            AttemptFailed: it states an error, or is no part of a completion.

        """
        failure = reported(body, self._headers)
        if failure is not None:
            raise failure
        # Between the chunks of a stream, endpoints send signs of life and figures of their own.
        is_whole = isinstance(body, Mapping) and (part == "delta" or bool(body.keys() & {"choices", "usage"}))
        choices = (body.get("choices") or []) if is_whole else None
        if not isinstance(choices, list):
            raise AttemptFailed("broken answer", f"not a completion: {body!r}")
        self._model = str(body.get("model") or self._model)
        self._usage = body.get("usage") or self._usage
        for choice in choices:
            self._add_choice(choice, part)

    def _add_choice(self, choice: Any, part: Part) -> None:
        message = choice.get(part) or {} if isinstance(choice, Mapping) else None
        if not isinstance(message, Mapping):
            raise AttemptFailed("broken answer", f"not a choice of a completion: {choice!r}")
        failure = reported(choice, self._headers)
        if failure is not None:
            raise failure
        if self._index is None:
            self._index = choice.get("index") or 0
        if self._index != (choice.get("index") or 0):
            return
        # `stop_reason` is Anthropic's name for it; vLLM states there which token or text ended a whole answer.
        reason = choice.get("finish_reason") or choice.get("stop_reason")
        self._finish_reason = str(reason or self._finish_reason)
        self._apart = self._apart or next((name for name in _APART if message.get(name)), "")
        if isinstance(message.get("refusal"), str):
            self._refusal.append(message["refusal"])
        content = message.get("content") or ""
        for item in content if isinstance(content, list) else [content]:
            if item is not None:
                self._add_content(item)

    def _add_content(self, item: Any) -> None:
        """Text, or one of the parts that some endpoints cut a message into: thoughts are left out."""
        if isinstance(item, str):
            self._pieces.append(item)
        elif isinstance(item, Mapping) and isinstance(item.get("refusal"), str):
            self._refusal.append(item["refusal"])
        elif isinstance(item, Mapping) and item.get("type", "text") in ("text", "output_text"):
            text = item.get("text")
            text = text.get("value") if isinstance(text, Mapping) else text
            if not isinstance(text or "", str):
                raise AttemptFailed("broken answer", f"a part of `content` has no text: {item!r}")
            self._pieces.append(text or "")
        elif isinstance(item, Mapping):
            self._apart = self._apart or f"a part of type {item['type']}"
        else:
            raise AttemptFailed("broken answer", f"`content` is neither text nor parts: {item!r}")

    def completion(self, ended: bool) -> Completion:
        """All that came. ``ended``: the endpoint itself said that this is the end, by a whole body or ``[DONE]``.

        Raises:
            AttemptFailed: no choice came, or the end is missing.

        """
        if self._index is None:
            raise AttemptFailed("empty answer", "a response without choices")
        if not (ended or self._finish_reason):
            raise AttemptFailed(
                "cut answer", f"the stream ended after {len(self._pieces)} pieces without finish_reason or [DONE]"
            )
        counts = [self._usage.get(name) if isinstance(self._usage, Mapping) else None for name in _COUNTS]
        # Some endpoints state 0 where they do not count.
        prompt, generated = (count if type(count) is int and 0 < count < _ABSURD else None for count in counts)
        text, refusal = _joined(self._pieces), _joined(self._refusal)
        return Completion(text, self._finish_reason, self._model, prompt, generated, self._apart, refusal)


_COUNTS = ("prompt_tokens", "completion_tokens")
_ABSURD = 10**9
"""Tokens that no request has."""


def _joined(pieces: list[str]) -> str:
    """The text of all pieces. A character beyond 16 bits may have been cut in two between them."""
    return "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def whole(completion: Completion) -> Completion:
    """The completion as it is kept: its end is named ``stop``, or ``length`` where it is cut at the token limit.

    A cut answer is kept, because it was paid for and the same request would be cut again; it never becomes a chain.

    Raises:
        AttemptFailed: it is no answer, and another attempt or a later run has to ask again.

    """
    for name, value in (("text", completion.text), ("model", completion.model)):
        if fault := unicode_fault(value):
            raise AttemptFailed("no valid text", f"{fault} in its {name}", "refused")
    given = completion.finish_reason
    reason = _plain(given)
    if reason in _SERVER:
        raise AttemptFailed("server error", f"finish_reason {given!r}")
    if completion.refusal.strip():
        raise AttemptFailed("declined", f"the model declined: {completion.refusal}", "refused")
    if reason not in _ENDED | _CUT:
        remedy = "if whole answers of this endpoint end so, name it in the teacher's setting `ends_as`"
        raise AttemptFailed(f"ended with {reason[:40]}", f"finish_reason {given!r}; {remedy}", "refused")
    cut = reason in _CUT
    if not completion.text.strip():
        raise _without_text(completion.apart, cut)
    return replace(completion, finish_reason="length" if cut else "stop")


def _plain(reason: str) -> str:
    """``FinishReason.MAX_TOKENS``, ``maxTokens`` and ``max-tokens`` as ``max_tokens``; no reason is an end."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", reason.strip().rpartition(".")[2])
    plain = re.sub(r"[\s-]+", "_", words.lower()).removeprefix("finish_reason_")
    return "stop" if plain in ("", "none", "null") else plain


def _without_text(apart: str, cut: bool) -> AttemptFailed:
    """The failure of an answer without text: tried again at once where chance may mend it, else by the next run."""
    if apart:
        where = f"`content` is empty and all text stands in {apart}"
        remedy = (
            "it was cut before the answer began: raise max_tokens"
            if cut
            else "start the server without its reasoning parser, or switch thinking off, for example with extra_body"
        )
        return AttemptFailed("only reasoning", f"{where}; {remedy}", "refused")
    if cut:
        return AttemptFailed("empty answer", "the token limit was reached before any text: raise max_tokens", "refused")
    return AttemptFailed("empty answer", "`content` is empty")
