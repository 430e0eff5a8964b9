"""A judge to use from Python: engines in this process, or a server over HTTP, with the same answers.

from pipelines.judgment.judge import Judge

with Judge("outputs/tiny/rl/hf") as judge:  # or Judge("http://127.0.0.1:8000", key=...)
    decision = judge.compare("3 plus 4 ?", "seven", "nine")
    print(decision.winner, decision.confidence)
    print(judge.rank("3 plus 4 ?", ["two", "seven", "nine"], method="knockout").ranking)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from pipelines.data.schema import PreferencePair
from pipelines.judgment.connection import Patience
from pipelines.judgment.decision import Decision
from pipelines.judgment.in_process import InProcessJudge
from pipelines.judgment.judging import asked
from pipelines.judgment.over_http import HttpJudge, is_address
from pipelines.judgment.ranking import Group, Ranking, RankMethod
from pipelines.judgment.rating import RatingDecision, ToRate, to_rate
from pipelines.judgment.rewards import Rewards

T = TypeVar("T")
Question = str | Sequence[dict[str, str]]
"""A text, or messages ``{role, content}`` that end with the user's."""


class Asked(Protocol):
    """What a judge asks: its own engines, or a server."""

    @property
    def model(self) -> str:
        """Folder or hub name."""

    async def compare(self, pairs: Sequence[PreferencePair]) -> list[Decision]:
        """The decision of every pair, in order; response a is its ``chosen`` one."""

    async def score(self, answers: Sequence[ToRate]) -> list[RatingDecision]:
        """The rating of every response, in order."""

    async def rank(self, groups: Sequence[Group], method: RankMethod, rounds: int) -> list[Ranking]:
        """The ranking of every group, in order."""

    async def reward(self, groups: Sequence[Group], budget: int) -> list[Rewards]:
        """The rewards of every group, in order."""

    async def aclose(self) -> None:
        """End what belongs to the event loop."""

    def close(self) -> None:
        """End everything else."""


class Judge:
    """A pairwise judge. Engines, if it has its own, end with :meth:`close` or the ``with`` block.

    Methods without ``a`` before their name wait; those with it are coroutines, for any event loop. All may be called
    from several threads; a judge with engines of its own is made, and closed, in the main one. The same question has
    the same answer, whatever else is asked meanwhile, and wherever the judge runs.
    """

    def __init__(
        self, model: str, *settings: str, key: str | None = None, deadline: float = 600.0, in_flight: int = 64
    ) -> None:
        """Start engines on ``model``, a folder or a hub name; or ask the server at ``http://host:port``.

        ``settings`` are those of the command line, such as ``"recipe=qwen3_8b"``, ``"judge.votes=4"``; where the model
        lies in a run's folder, template, lengths and the rule of verdicts are those of the run. A server is asked with
        ``judge.orders``, ``judge.votes`` and ``judge.temperature``; the rest is its own. Of servers only: the bearer
        ``key``; the ``deadline`` in seconds of one request, within which it is repeated while the server is busy (429,
        503; ``Retry-After`` is heeded) or the connection breaks; and requests ``in_flight`` at the same time.

        Raises:
            ConfigError: a setting is unknown or cannot work.
            ModelError, DataError: the model, its tokenizer or the template cannot be used.
            JudgeUnreachable: nothing answers at the address.
            JudgeRefused: the key is wrong, or what answers there is no judge.

        """
        self._asked: Asked = (
            HttpJudge(model, key, settings, Patience(deadline, in_flight))
            if is_address(model)
            else InProcessJudge(model, settings)
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    @property
    def model(self) -> str:
        """Folder or hub name."""
        return self._asked.model

    def compare(self, question: Question, response_a: str, response_b: str) -> Decision:
        """Which of two responses to a question is better.

        Raises:
            DataError: a text is missing, empty, too long or no valid Unicode, or both responses are equal.
            DeadlineExceeded, ActorFailed: the engines do not answer; JudgeUnreachable: the server does not.

        """
        return self.compare_all([(question, response_a, response_b)])[0]

    async def acompare(self, question: Question, response_a: str, response_b: str) -> Decision:
        """:meth:`compare` as a coroutine."""
        return (await self.acompare_all([(question, response_a, response_b)]))[0]

    def compare_all(self, comparisons: Sequence[tuple[Question, str, str]]) -> list[Decision]:
        """:meth:`compare` of many ``(question, response_a, response_b)`` together; decisions in their order."""
        return self._wait(self._asked.compare(_pairs(comparisons)))

    async def acompare_all(self, comparisons: Sequence[tuple[Question, str, str]]) -> list[Decision]:
        """:meth:`compare_all` as a coroutine."""
        return await self._await(self._asked.compare(_pairs(comparisons)))

    def score(self, question: Question, response: str, rubric: str | None = None) -> RatingDecision:
        """How good one response to a question is, from 1 to 10; ``rubric`` are criteria to rate it by.

        Raises:
            DataError: a text is missing, empty, too long or no valid Unicode; there is no template for ratings, or it
                has no place for a rubric.
            ModeUnsupported: the judge was trained for other modes.
            DeadlineExceeded, ActorFailed: the engines do not answer; JudgeUnreachable: the server does not.

        """
        return self.score_all([(question, response)], rubric)[0]

    async def ascore(self, question: Question, response: str, rubric: str | None = None) -> RatingDecision:
        """:meth:`score` as a coroutine."""
        return (await self.ascore_all([(question, response)], rubric))[0]

    def score_all(self, answers: Sequence[tuple[Question, str]], rubric: str | None = None) -> list[RatingDecision]:
        """:meth:`score` of many ``(question, response)`` together; ratings in their order."""
        return self._wait(self._asked.score(_to_rate(answers, rubric)))

    async def ascore_all(
        self, answers: Sequence[tuple[Question, str]], rubric: str | None = None
    ) -> list[RatingDecision]:
        """:meth:`score_all` as a coroutine."""
        return await self._await(self._asked.score(_to_rate(answers, rubric)))

    def rank(
        self, question: Question, responses: Sequence[str], method: RankMethod = "all_pairs", rounds: int = 0
    ) -> Ranking:
        """The responses to a question in order; for ``method`` and ``rounds`` see :func:`tournaments.next_round`.

        ``listwise`` shows at most four together, once in each position.

        Raises:
            DataError: fewer than two responses, or a text that cannot be judged.
            ValueError: an unknown method.

        """
        return self.rank_all([(question, responses)], method, rounds)[0]

    async def arank(
        self, question: Question, responses: Sequence[str], method: RankMethod = "all_pairs", rounds: int = 0
    ) -> Ranking:
        """:meth:`rank` as a coroutine."""
        return (await self.arank_all([(question, responses)], method, rounds))[0]

    def rank_all(
        self, groups: Sequence[tuple[Question, Sequence[str]]], method: RankMethod = "all_pairs", rounds: int = 0
    ) -> list[Ranking]:
        """:meth:`rank` of many ``(question, responses)`` together; rankings in their order."""
        return self._wait(self._asked.rank(_groups(groups), method, rounds))

    async def arank_all(
        self, groups: Sequence[tuple[Question, Sequence[str]]], method: RankMethod = "all_pairs", rounds: int = 0
    ) -> list[Ranking]:
        """:meth:`rank_all` as a coroutine."""
        return await self._await(self._asked.rank(_groups(groups), method, rounds))

    def reward(self, prompt: Question, responses: Sequence[str], budget: int = 0) -> Rewards:
        """What each response is worth, in [0, 1], from at most ``budget`` comparisons (0: two a response).

        Raises:
            DataError: no responses, or a text that cannot be judged.

        """
        return self.reward_all([(prompt, responses)], budget)[0]

    async def areward(self, prompt: Question, responses: Sequence[str], budget: int = 0) -> Rewards:
        """:meth:`reward` as a coroutine."""
        return (await self.areward_all([(prompt, responses)], budget))[0]

    def reward_all(self, groups: Sequence[tuple[Question, Sequence[str]]], budget: int = 0) -> list[Rewards]:
        """:meth:`reward` of many ``(prompt, responses)`` together; in their order."""
        return self._wait(self._asked.reward(_groups(groups), budget))

    async def areward_all(self, groups: Sequence[tuple[Question, Sequence[str]]], budget: int = 0) -> list[Rewards]:
        """:meth:`reward_all` as a coroutine."""
        return await self._await(self._asked.reward(_groups(groups), budget))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the engines, or the connections. May be called twice."""
        if self._thread.is_alive():
            self._wait(self._asked.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._asked.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pairs(comparisons: Sequence[tuple[Question, str, str]]) -> list[PreferencePair]:
    return [asked(*comparison, place=f"comparison {number}") for number, comparison in enumerate(comparisons)]


def _to_rate(answers: Sequence[tuple[Question, str]], rubric: str | None) -> list[ToRate]:
    return [to_rate(*answer, rubric, place=f"response {number}") for number, answer in enumerate(answers)]


def _groups(groups: Sequence[tuple[Question, Sequence[str]]]) -> list[Group]:
    return [Group(f"group {at}", question, tuple(texts)) for at, (question, texts) in enumerate(groups)]
