"""A teacher behind an OpenAI-compatible endpoint, by the ``openai`` client. One attempt; repeating is the dispatcher's.

The client's own retries are off: a request that is tried again must pass the rate limit again, and an answer that is
no whole completion (empty, cut, of another model) is a failure here though its status was 200.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from actors.redaction import read_key, redact, remember
from pipelines.endpoints.answers import Completion, Response
from pipelines.endpoints.failures import TeacherError, classify, one_line
from pipelines.endpoints.requests import Request
from pipelines.endpoints.teachers import NamedTeacher

_DATED = re.compile(r"|[-@:]v?\d[\d.-]*|[-:]latest")
"""What may follow a model's name: nothing, a date, a version."""
_LINGER_SECONDS = 1.0


class Endpoint:
    """An open connection to an endpoint. Belongs to one event loop."""

    def __init__(self, teacher: NamedTeacher) -> None:
        """Open nothing yet, but refuse what cannot work.

        Raises:
            KeyRefused: the key cannot be sent.
            TeacherError: OpenAI's own endpoint without a key; an address or a proxy that cannot be used.

        """
        from openai import AsyncOpenAI

        settings, name = teacher.settings, teacher.name
        key = read_key(settings.key_variable)
        if not key and settings.base_url is None:
            raise TeacherError(
                f"{name}: the environment variable {settings.key_variable} holds no key: export it, or set "
                f"{teacher.setting('base_url')} to an endpoint of your own"
            )
        if settings.base_url is not None:
            _check_address(settings.base_url, teacher.setting("base_url"))
        self._settings = settings
        self._teacher = teacher
        self._states_usage = True
        """Whether the endpoint takes `stream_options`, with which a stream states its tokens."""
        try:
            # A key must not be empty, and servers of one's own ask for none.
            self._client = AsyncOpenAI(
                api_key=key or "none", base_url=settings.base_url, max_retries=0, timeout=settings.timeout
            )
        except Exception as error:
            raise TeacherError(f"{name}: {why_not_opened(error)}") from error

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
            AttemptFailed, openai.APIError: see :mod:`pipelines.endpoints.failures`.
            TeacherError: the answer is another model's.

        """
        try:
            async with asyncio.timeout(self._settings.timeout):
                completion = await self._ask(request)
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer in {self._settings.timeout:g} s") from error
        self._check_model(completion.model)
        if completion.finish_reason and completion.finish_reason == self._settings.ends_as:
            return replace(completion, finish_reason="stop")
        return completion

    async def _ask(self, request: Request) -> Completion:
        """One attempt; one more without `stream_options` where the endpoint refuses those."""
        body = self._body(request)
        try:
            return await self._receive(body)
        except Exception as error:
            failure = classify(error)
            refused = failure is not None and failure.kind == "refused"
            if not refused or "stream_options" not in body or not re.search("stream_options|include_usage", str(error)):
                raise
        self._states_usage = False
        return await self._receive(self._body(request))

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
            **({"stream": True} if settings.stream else {}),
            **({"stream_options": {"include_usage": True}} if settings.stream and self._states_usage else {}),
        }

    async def _receive(self, body: dict[str, Any]) -> Completion:
        """The answer in the form in which it comes, which is not always the form that was asked for."""
        create = self._client.chat.completions.with_streaming_response.create
        # Closed whatever happens, or a connection would stay taken by an answer that nobody reads to its end.
        async with create(**body) as sent:
            response, form = Response(sent.headers), sent.headers.get("content-type", "")
            if "event-stream" not in form and ("stream" not in body or "json" in form):
                response.add(await sent.json(), "message")
                return response.completion(ended=True)
            pieces, done = sent.iter_bytes(), False
            async for data in events(pieces):
                if data == "[DONE]":
                    done = True
                    break
                response.add(json.loads(data), "delta")
            if done:
                await _read_to_end(pieces)
            return response.completion(ended=done)

    def _check_model(self, answered: str) -> None:
        wanted = self._settings.answers_as or self._settings.model or ""
        if answered and not same_model(wanted, answered):
            answered = one_line(answered)
            raise TeacherError(
                f"{self._teacher.name}: asked for model {wanted!r}, but the endpoint answers as {answered!r}: correct "
                f"{self._teacher.setting('model')} or {self._teacher.setting('base_url')}, or accept it with "
                f"{self._teacher.setting('answers_as')}={answered}"
            )


def same_model(wanted: str, answered: str) -> bool:
    """Whether two names mean one model: ``gpt-x`` answers as ``gpt-x-2025-01-01``, ``vendor/gpt-x`` as ``gpt-x``; but
    ``gpt-x-mini`` is another one."""
    one, other = (name.lower().rstrip("/").rsplit("/", 1)[-1] for name in (wanted, answered))
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer.startswith(shorter) and bool(_DATED.fullmatch(longer[len(shorter) :]))


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events, however the bytes are cut. The last one may lack the blank line that ends it."""
    rest, data, begun = b"", list[bytes](), False
    async for piece in pieces:
        rest += piece
        if not begun:  # A byte-order mark may come before everything.
            if len(rest) < len(codecs.BOM_UTF8):
                continue
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if field := line.rstrip(b"\r"):
                data += [field[5:].strip()] if field.startswith(b"data:") else []
            elif data:
                yield b"\n".join(data).decode()
                data = []
    data += [rest[5:].strip()] if rest.startswith(b"data:") else []
    if data:
        yield b"\n".join(data).decode()


async def _read_to_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what follows the last event, so that the connection can be used again; an endpoint may leave it open."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_LINGER_SECONDS):
            async for _ in pieces:
                pass


def _check_address(url: str, setting: str) -> None:
    """Refuse what is no address, and hide a password in it from now on."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise TeacherError(
            f"{setting}={redact(url)!r} is no address: write it as http://host:port/v1 or https://host/v1"
        )
    if parts.password:
        for secret in (parts.password, unquote(parts.password), unquote(f"{parts.username}:{parts.password}")):
            remember(secret)


def why_not_opened(error: Exception) -> str:
    """What keeps a connection from being opened at all: a proxy in the environment, or the address."""
    proxies = {scheme: url for scheme, url in getproxies().items() if scheme in ("all", "http", "https")}
    socks = [scheme for scheme, url in proxies.items() if url.lower().startswith("socks")]
    if isinstance(error, ImportError) and socks:
        return (
            f"the environment variable {socks[0].upper()}_PROXY (in capitals or not) names a SOCKS proxy, for which "
            "the package socksio is missing: install it (pip install socksio), or unset the variable"
        )
    named = ", ".join(f"{scheme.upper()}_PROXY" for scheme in proxies) or "none"
    return (
        f"no connection can be opened ({one_line(str(error))}): check base_url and the proxy variables of the "
        f"environment (set: {named})"
    )
