"""A judge behind HTTP (`make serve`): requests with retries inside a deadline, a bounded number at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from actors.errors import UserError
from actors.redaction import KeyRefused, redact, remember
from pipelines.chain_generation.endpoint import why_not_opened
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.schema import DataError, Message, PreferencePair, conversation_of, plain_messages
from pipelines.judgment.decision import Decision
from pipelines.judgment.ranking import Group, Ranking
from pipelines.judgment.rewards import Rewards
from pipelines.judgment.tournaments import METHODS, Method

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_LATER = {429, 502, 503, 504}
"""Statuses after which the same request may be answered."""
_LONGEST_PAUSE = 8.0
_CONNECT_SECONDS = 10.0
_OF_A_REQUEST = ("judge.orders", "judge.votes", "judge.temperature")


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


def is_address(model: str) -> bool:
    """Whether a judge is named by its address."""
    return model.startswith(("http://", "https://"))


def request_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Settings as fields of a request; the others are the server's.

    Raises:
        ConfigError: a setting that a request cannot carry, or that is unknown or out of range.

    """
    names = [setting.partition("=")[0] for setting in settings]
    if others := [name for name in names if name not in _OF_A_REQUEST]:
        raise ConfigError(
            f"{others[0]} is the server's, and a judge behind HTTP takes {', '.join(_OF_A_REQUEST)}: start the server "
            "with it"
        )
    section = load_config(list(settings)).judge
    return {name.partition(".")[2]: getattr(section, name.partition(".")[2]) for name in names}


class HttpJudge:
    """Asks one server. Belongs to the event loop it is first asked in."""

    def __init__(self, address: str, key: str | None, settings: Sequence[str], patience: Patience) -> None:
        """Find the server and its model; nothing is asked to be judged.

        Raises:
            ConfigError, KeyRefused: the address, the key or a setting cannot be used.
            JudgeUnreachable: nothing answers there.
            JudgeRefused: the key is not one of the server's, or what answers is no judge of ours.

        """
        import httpx2

        self._address = _checked(address)
        self._shown = redact(self._address)
        self._fields, self._patience = request_settings(settings), patience
        headers = _headers(key)
        limits = httpx2.Limits(max_connections=patience.in_flight, max_keepalive_connections=patience.in_flight)
        timeout = httpx2.Timeout(patience.deadline, connect=_CONNECT_SECONDS)
        try:
            self._client = httpx2.AsyncClient(base_url=self._address, headers=headers, timeout=timeout, limits=limits)
        except Exception as error:
            raise ConfigError(f"{self._shown}: {why_not_opened(error)}") from error
        self.model = self._find(headers)
        self._slots = asyncio.Semaphore(patience.in_flight)

    async def compare(self, pairs: Sequence[PreferencePair]) -> list[Decision]:
        """The decision of every pair, in order; response a is its ``chosen`` one."""

        def body(pair: PreferencePair) -> dict[str, Any]:
            return {
                **_question(pair.prompt),
                "response_a": pair.chosen,
                "response_b": pair.rejected,
                "too_long": "report",
                **self._fields,
            }

        return await self._all([self._asked("/v1/compare", body(pair), Decision.of_json) for pair in pairs])

    async def rank(self, groups: Sequence[Group], method: Method, rounds: int) -> list[Ranking]:
        """The ranking of every group, in order."""
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}")

        def body(group: Group) -> dict[str, Any]:
            question = _question(conversation_of(group.question, group.id))
            asked = {"responses": list(group.responses), "method": method, "rounds": rounds, "too_long": "report"}
            return {**question, **asked, **self._fields}

        for group in groups:
            if len(group.responses) < 2:
                raise DataError(f"{group.id}: {len(group.responses)} responses, and ranking needs at least 2")
        return await self._all([self._asked("/v1/rank", body(group), Ranking.of_json) for group in groups])

    async def reward(self, groups: Sequence[Group], budget: int) -> list[Rewards]:
        """The rewards of every group, in order."""

        def body(group: Group) -> dict[str, Any]:
            prompt = plain_messages(conversation_of(group.question, group.id))
            return {"prompt": prompt, "responses": list(group.responses), "budget": budget}

        for group in groups:
            if not group.responses:
                raise DataError(f"{group.id}: no responses, and a reward needs at least one")

        return await self._all([self._asked("/v1/reward", body(group), Rewards.of_json) for group in groups])

    async def _all(self, work: Sequence[Awaitable[T]]) -> list[T]:
        """Results in order; the first failure ends the others."""
        tasks = [asyncio.ensure_future(item) for item in work]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _asked(self, route: str, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        attempts: list[str] = []
        async with self._slots:
            try:
                async with asyncio.timeout(self._patience.deadline):
                    answer = await self._answered(route, body, attempts)
            except TimeoutError as error:
                last = f"; the last of {len(attempts)} attempts: {attempts[-1]}" if attempts else ""
                seconds = f"{self._patience.deadline:g} s"
                raise JudgeUnreachable(f"{self._shown}{route}: no answer in {seconds}{last}") from error
        try:
            return read(answer)
        except (TypeError, KeyError, AttributeError) as error:
            raise JudgeRefused(
                f"{self._shown}{route} answers in another form ({error}): is it of another version?", 200
            ) from error

    async def _answered(self, route: str, body: Mapping[str, Any], attempts: list[str]) -> Any:
        """The answer's JSON, however many attempts it takes; the caller has the deadline. What came of each attempt
        that did not end it is added to ``attempts``."""
        import httpx2

        while True:
            pause = min(_LONGEST_PAUSE, 0.25 * 2 ** len(attempts)) * (0.5 + random.random() / 2)
            try:
                response = await self._client.post(route, json=body)
            except httpx2.TransportError as error:
                attempts.append(f"{type(error).__name__} {redact(str(error))}".strip())
            else:
                if response.status_code not in _LATER:
                    return _read(response, f"{self._shown}{route}")
                attempts.append(f"status {response.status_code}, {_said(response)[0]}")
                pause = max(pause, _retry_after(response))
            await asyncio.sleep(pause)

    def _find(self, headers: Mapping[str, str]) -> str:
        """Name of the model behind the address."""
        import httpx2

        with httpx2.Client(base_url=self._address, headers=dict(headers), timeout=_CONNECT_SECONDS) as client:
            try:
                health, models = client.get("/health"), client.get("/v1/models")
            except httpx2.TransportError as error:
                raise JudgeUnreachable(
                    f"no judge answers at {self._shown} ({redact(str(error)) or type(error).__name__}): start one with "
                    "`make serve`, or correct the address"
                ) from error
        stated = _json(health)
        if health.status_code != 200 or not isinstance(stated, Mapping) or "model" not in stated:
            raise JudgeRefused(
                f"what answers at {self._shown} is no server of `make serve` (status {health.status_code} of /health): "
                "correct the address; another server of OpenAI's interface judges with `make evaluate BASE_URL=...`",
                health.status_code,
            )
        _read(models, f"{self._shown}/v1/models")
        return str(stated["model"])

    async def aclose(self) -> None:
        """Close the connections, in the loop that used them."""
        await self._client.aclose()

    def close(self) -> None:
        """Nothing is left after :meth:`aclose`."""


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


def _question(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": plain_messages(messages)}


def _read(response: httpx2.Response, place: str) -> Any:
    """The JSON of an answer.

    Raises:
        JudgeRefused: it is a refusal, or no JSON.
        DataError: the server refused the texts.

    """
    said, code = _said(response)
    if response.status_code == 401:
        raise JudgeRefused(f"{place} refuses the key ({said}): pass one of its serve.keys as key=...", 401, code)
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
