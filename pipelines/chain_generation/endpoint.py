"""A teacher behind an OpenAI-compatible endpoint, by the ``openai`` client. One attempt; repeating is the dispatcher's.

The client's own retries are off: a request that is tried again must pass the rate limit again, and an answer that is
no whole completion (empty, cut, of another model) is a failure here though its status was 200.
"""

from __future__ import annotations

import asyncio
import os
import re
from types import TracebackType
from typing import Any, Self

from pipelines.chain_generation.failures import AttemptFailed, TeacherError
from pipelines.chain_generation.requests import Request
from pipelines.chain_generation.teachers import Completion, NamedTeacher

_DATED = re.compile(r"|[-@:]v?\d[\d.-]*|[-:]latest")
"""What may follow a model's name: nothing, a date, a version."""


class Endpoint:
    """An open connection to an endpoint. Belongs to one event loop."""

    def __init__(self, teacher: NamedTeacher) -> None:
        """Raises TeacherError for OpenAI's own endpoint without a key in the environment."""
        from openai import AsyncOpenAI

        settings, name = teacher.settings, teacher.name
        key = os.environ.get(settings.key_variable, "")
        if not key and settings.base_url is None:
            raise TeacherError(
                f"{name}: the environment variable {settings.key_variable} holds no key: export it, or set "
                f"{name}.base_url to an endpoint of your own"
            )
        self._settings = settings
        self._name = name
        # A key must not be empty, and servers of one's own ask for none.
        self._client = AsyncOpenAI(
            api_key=key or "none", base_url=settings.base_url, max_retries=0, timeout=settings.timeout
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def attempt(self, request: Request) -> Completion:
        """Ask once.

        Raises:
            TimeoutError: the whole answer was not there in time, however lively the connection.
            AttemptFailed, openai.APIError: see :mod:`pipelines.chain_generation.failures`.
            TeacherError: the answer is another model's.

        """
        body = self._body(request)
        try:
            async with asyncio.timeout(self._settings.timeout):
                completion = await (self._streamed(body) if self._settings.stream else self._whole(body))
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer in {self._settings.timeout:g} s") from error
        self._check_model(completion.model)
        return completion

    def _body(self, request: Request) -> dict[str, Any]:
        settings = self._settings
        sampling = {"temperature": settings.temperature, "top_p": settings.top_p}
        return {
            "model": settings.model,
            "messages": list(request.messages),
            settings.limit_field: settings.max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
            **({"seed": request.seed} if settings.send_seed else {}),
            "extra_body": settings.extra_body or None,
            # Endpoints that know this header do not charge twice for a request whose answer got lost.
            "extra_headers": {"Idempotency-Key": request.key},
        }

    async def _whole(self, body: dict[str, Any]) -> Completion:
        response: Any = await self._client.chat.completions.create(**body)
        choice = _choice(response)
        if choice is None:
            raise AttemptFailed("empty answer", "an answer without choices")
        message = getattr(choice, "message", None)
        if message is None or not choice.finish_reason:
            raise AttemptFailed("cut answer", "a choice without a message or without the reason it ended")
        return _completion(response, message.content or "", choice.finish_reason, response.usage)

    async def _streamed(self, body: dict[str, Any]) -> Completion:
        stream: Any = await self._client.chat.completions.create(
            **body, stream=True, stream_options={"include_usage": True}
        )
        pieces: list[str] = []
        last: Any = None
        finish_reason = usage = None
        # Closed whatever happens, or a connection would stay taken by an answer that nobody reads to its end.
        async with stream:
            async for chunk in stream:
                last, usage = chunk, getattr(chunk, "usage", None) or usage
                choice = _choice(chunk)
                if choice is None:
                    continue
                pieces.append((choice.delta.content if choice.delta else None) or "")
                finish_reason = choice.finish_reason or finish_reason
        if finish_reason is None:
            cause = "cut answer" if pieces else "empty answer"
            raise AttemptFailed(cause, f"the stream ended after {len(pieces)} pieces without the reason it ended")
        return _completion(last, "".join(pieces), finish_reason, usage)

    def _check_model(self, answered: str) -> None:
        wanted = self._settings.answers_as or self._settings.model or ""
        if answered and not same_model(wanted, answered):
            raise TeacherError(
                f"{self._name}: asked for model {wanted!r}, but the endpoint answers as {answered!r}: correct "
                f"{self._name}.model or base_url, or accept it with {self._name}.answers_as={answered}"
            )


def same_model(wanted: str, answered: str) -> bool:
    """Whether two names mean one model: ``gpt-x`` answers as ``gpt-x-2025-01-01``, ``vendor/gpt-x`` as ``gpt-x``; but
    ``gpt-x-mini`` is another one."""
    one, other = (name.lower().rstrip("/").rsplit("/", 1)[-1] for name in (wanted, answered))
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer.startswith(shorter) and bool(_DATED.fullmatch(longer[len(shorter) :]))


def _choice(answer: Any) -> Any:
    """The one choice of an answer or chunk; None where there is none.

    Raises:
        AttemptFailed: it is no completion at all; the client hands on whatever JSON or text came.

    """
    if not hasattr(answer, "choices"):
        raise AttemptFailed("broken answer", f"not a completion: {str(answer)[:200]!r}")
    return answer.choices[0] if answer.choices else None


def _completion(answer: Any, text: str, finish_reason: str, usage: Any) -> Completion:
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) else None for count in counts)
    return Completion(text, finish_reason, str(answer.model or ""), prompt, completion)
