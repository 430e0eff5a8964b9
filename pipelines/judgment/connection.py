"""Requests to a server of this project: retries inside a deadline, a bounded number at a time, refusals as errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actors.errors import UserError
from actors.redaction import KeyRefused, redact, remember
from pipelines.config import ConfigError
from pipelines.data.schema import DataError
from pipelines.endpoints.endpoint import why_not_opened
from pipelines.judgment.modes import ModeUnsupported

if TYPE_CHECKING:
    import httpx2

_LATER = {429, 502, 503, 504}
"""Statuses after which the same request may be answered."""
_LONGEST_PAUSE = 8.0
_CONNECT_SECONDS = 10.0


class JudgeUnreachable(UserError, ConnectionError):
    """No answer of a judge within the deadline; says from where, and what was answered last."""


class JudgeRefused(UserError, RuntimeError):
    """The server will not answer this, however often it is asked: ``status`` and ``code`` of its error."""

    def __init__(self, message: str, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Patience:
    """How a server is asked."""

    deadline: float = 600.0
    """Seconds for one request, its retries and pauses included."""
    in_flight: int = 64
    """Requests at a time."""


class Connection:
    """To one server. Belongs to the event loop it is first used in."""

    def __init__(self, address: str, key: str | None, patience: Patience) -> None:
        """Connect to nothing yet.

        Raises:
            ConfigError, KeyRefused: the address, the key or a proxy of the environment cannot be used.

        """
        import httpx2

        self.address = _checked(address)
        self.shown = redact(self.address)
        self._headers = _headers(key)
        self._patience = patience
        limits = httpx2.Limits(max_connections=patience.in_flight, max_keepalive_connections=patience.in_flight)
        timeout = httpx2.Timeout(patience.deadline, connect=_CONNECT_SECONDS)
        try:
            self._client = httpx2.AsyncClient(
                base_url=self.address, headers=self._headers, timeout=timeout, limits=limits
            )
        except Exception as error:
            raise ConfigError(f"{self.shown}: {why_not_opened(error)}") from error
        self._slots = asyncio.Semaphore(patience.in_flight)

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON, however many attempts it takes within the deadline.

        Raises:
            JudgeUnreachable: none came; with what the last attempt brought.
            JudgeRefused, DataError: the server will not answer this.

        """
        attempts: list[str] = []
        async with self._slots:
            try:
                async with asyncio.timeout(self._patience.deadline):
                    return await self._answered(route, body, attempts)
            except TimeoutError as error:
                last = f"; the last of {len(attempts)} attempts: {attempts[-1]}" if attempts else ""
                seconds = f"{self._patience.deadline:g} s"
                raise JudgeUnreachable(f"{self.shown}{route}: no answer in {seconds}{last}") from error

    async def _answered(self, route: str, body: Mapping[str, Any], attempts: list[str]) -> Any:
        """Adds to ``attempts`` what came of each that was not the last."""
        import httpx2

        while True:
            pause = min(_LONGEST_PAUSE, 0.25 * 2 ** len(attempts)) * (0.5 + random.random() / 2)
            try:
                response = await self._client.post(route, json=body)
            except httpx2.TransportError as error:
                attempts.append(f"{type(error).__name__} {redact(str(error))}".strip())
            else:
                if response.status_code not in _LATER:
                    return _read(response, f"{self.shown}{route}")
                attempts.append(f"status {response.status_code}, {_said(response)[0]}")
                pause = max(pause, _retry_after(response))
            await asyncio.sleep(pause)

    def find(self) -> str:
        """Name of the model behind the address.

        Raises:
            JudgeUnreachable: nothing answers there.
            JudgeRefused: the key is not one of the server's, or what answers is no server of this project.

        """
        import httpx2

        with httpx2.Client(base_url=self.address, headers=self._headers, timeout=_CONNECT_SECONDS) as client:
            try:
                health, models = client.get("/health"), client.get("/v1/models")
            except httpx2.TransportError as error:
                raise JudgeUnreachable(
                    f"no judge answers at {self.shown} ({redact(str(error)) or type(error).__name__}): start one with "
                    "`make serve`, or correct the address"
                ) from error
        stated = _json(health)
        if health.status_code in _LATER and isinstance(stated, Mapping) and "error" in stated:
            raise JudgeUnreachable(f"the judge at {self.shown} cannot answer now: {_said(health)[0]}")
        if health.status_code != 200 or not isinstance(stated, Mapping) or "model" not in stated:
            raise JudgeRefused(
                f"what answers at {self.shown} is no server of `make serve` (status {health.status_code} of /health): "
                "correct the address; another server of OpenAI's interface judges with `make evaluate BASE_URL=...`",
                health.status_code,
            )
        _read(models, f"{self.shown}/v1/models")
        return str(stated["model"])

    async def aclose(self) -> None:
        """Close the connections, in the loop that used them."""
        await self._client.aclose()


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{redact(address)!r} is no address of a judge: write it as http://host:port")
    return address.rstrip("/").removesuffix("/v1")


def _headers(key: str | None) -> dict[str, str]:
    if not key:
        return {}
    remember(key)
    if not all("!" <= character <= "~" for character in key):
        raise KeyRefused(
            "the judge's key has white space, control or non-ASCII characters: pass it as it is in the file"
        )
    return {"authorization": f"Bearer {key}"}


def _read(response: httpx2.Response, place: str) -> Any:
    """The JSON of an answer.

    Raises:
        JudgeRefused: it is a refusal, or no JSON.
        ModeUnsupported: the server's judge was trained for other modes.
        DataError: the server refused the texts.

    """
    said, code = _said(response)
    if response.status_code == 401:
        raise JudgeRefused(f"{place} refuses the key ({said}): pass one of its serve.keys as key=...", 401, code)
    if code == "mode_unsupported":
        raise ModeUnsupported(f"{place}: {said}")
    if response.status_code == 422:
        raise DataError(f"{place}: {said}")
    stated = _json(response)
    if response.status_code != 200 or stated is None:
        raise JudgeRefused(f"{place} answers with status {response.status_code}: {said}", response.status_code, code)
    return stated


def _json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _said(response: httpx2.Response) -> tuple[str, str | None]:
    """Message and code of an error object; of anything else, its beginning."""
    stated = _json(response)
    error = stated.get("error") if isinstance(stated, Mapping) else None
    if isinstance(error, Mapping):
        return redact(str(error.get("message"))), error.get("code")
    return redact(" ".join(response.text[:200].split())), None


def _retry_after(response: httpx2.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return 0.0
