"""A judge behind HTTP (`make serve`): one of the two that :class:`Judge` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.schema import DataError, Message, PreferencePair, conversation_of, plain_messages
from pipelines.judgment.connection import Connection, JudgeRefused, Patience
from pipelines.judgment.decision import Decision
from pipelines.judgment.ranking import Group, Ranking, RankMethod
from pipelines.judgment.rating import RatingDecision, ToRate
from pipelines.judgment.rewards import Rewards
from pipelines.judgment.tournaments import METHODS

T = TypeVar("T")
_OF_A_REQUEST = ("judge.orders", "judge.votes", "judge.temperature")


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
        self._fields = request_settings(settings)
        self._connection = Connection(address, key, patience)
        self.model = self._connection.find()

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

    async def score(self, answers: Sequence[ToRate]) -> list[RatingDecision]:
        """The rating of every response, in order."""

        def body(answer: ToRate) -> dict[str, Any]:
            asked = {"response": answer.response, "rubric": answer.rubric, "too_long": "report"}
            return {**_question(answer.conversation), **asked, **self._fields}

        return await self._all([self._asked("/v1/score", body(item), RatingDecision.of_json) for item in answers])

    async def rank(self, groups: Sequence[Group], method: RankMethod, rounds: int) -> list[Ranking]:
        """The ranking of every group, in order."""
        if method not in (*METHODS, "listwise"):
            raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)} or listwise")

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
        answer = await self._connection.post(route, body)
        try:
            return read(answer)
        except (TypeError, KeyError, AttributeError) as error:
            raise JudgeRefused(
                f"{self._connection.shown}{route} answers in another form ({error}): is it of another version?", 200
            ) from error

    async def aclose(self) -> None:
        """Close the connections, in the loop that used them."""
        await self._connection.aclose()

    def close(self) -> None:
        """Nothing is left after :meth:`aclose`."""


def _question(messages: Sequence[Message]) -> dict[str, Any]:
    return {"messages": plain_messages(messages)}
