"""A judge to use from Python, in this process's engines.

from pipelines.judgment.judge import Judge

with Judge("outputs/tiny/rl/hf") as judge:
    decision = judge.compare("3 plus 4 ?", "seven", "nine")
    print(decision.winner, decision.confidence)
    print(judge.rank("3 plus 4 ?", ["two", "seven", "nine"], method="knockout").ranking)
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from pipelines.config.compose import load_config
from pipelines.data.schema import PreferencePair
from pipelines.judgment.decision import Decision
from pipelines.judgment.judging import asked
from pipelines.judgment.opening import judge_parts, open_judge
from pipelines.judgment.ranking import Group, Ranking, rank_groups
from pipelines.judgment.tournaments import Method
from pipelines.runs.folder import RunDirectory

T = TypeVar("T")
Question = str | Sequence[dict[str, str]]
"""A text, or messages ``{role, content}`` that end with the user's."""

_OF_THE_RUN = {
    "model": ("prompt", "max_prompt_tokens", "max_response_tokens"),
    "algorithm": ("verdict_mode",),
}


def settings_of(model: str) -> list[str]:
    """How a model was prompted and read in the run that trained it, as overrides; none for a model of no run.

    A run's model is ``<run>/<stage>/hf``, and its settings are in ``<run>/config.yaml``.
    """
    file = Path(model).resolve().parent.parent / "config.yaml"
    if Path(model).name != "hf" or not file.is_file():
        return []
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = [f"{section}.{name}={config[section][name]}" for section, names in _OF_THE_RUN.items() for name in names]
    return [f"recipe={config['recipe_name']}", *found]


@contextmanager
def _callers_signals() -> Iterator[None]:
    """What signals do is the caller's business: handlers that a session installs are taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Judge:
    """A pairwise judge. Engines start when it is made, and end with :meth:`close` or the ``with`` block.

    Methods without ``a`` before their name wait; those with it are coroutines, for any event loop. All may be called
    from several threads; the judge itself is made, and closed, in the main one. The same question has the same answer,
    whatever else is asked meanwhile.
    """

    def __init__(self, model: str, *settings: str) -> None:
        """Start engines on ``model``, a folder or a hub name.

        ``settings`` are those of the command line, such as ``"recipe=qwen3_8b"``, ``"judge.votes=4"``; where the model
        lies in a run's folder, template, lengths and the rule of verdicts are those of the run.

        Raises:
            ConfigError: a setting is unknown or cannot work.
            ModelError, DataError: the model, its tokenizer or the template cannot be used.

        """
        config = load_config([*settings_of(model), *settings, f"judge.model={model}"])
        parts = judge_parts(config, config.judge)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        with ExitStack() as stack, _callers_signals():
            folder = stack.enter_context(TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True))
            run = stack.enter_context(RunDirectory(folder, "run"))
            self._judge = stack.enter_context(open_judge(config, config.judge, parts, run, eager=True))
            self._stack = stack.pop_all()
        self._thread.start()

    @property
    def model(self) -> str:
        """Folder or hub name."""
        return self._judge.model

    def compare(self, question: Question, response_a: str, response_b: str) -> Decision:
        """Which of two responses to a question is better.

        Raises:
            DataError: a text is missing, empty, too long or no valid Unicode, or both responses are equal.
            DeadlineExceeded, ActorFailed: the engines do not answer.

        """
        return self._wait(self._compare([(question, response_a, response_b)]))[0]

    async def acompare(self, question: Question, response_a: str, response_b: str) -> Decision:
        """:meth:`compare` as a coroutine."""
        return (await self._await(self._compare([(question, response_a, response_b)])))[0]

    def compare_all(self, comparisons: Sequence[tuple[Question, str, str]]) -> list[Decision]:
        """:meth:`compare` of many ``(question, response_a, response_b)`` together; decisions in their order."""
        return self._wait(self._compare(comparisons))

    async def acompare_all(self, comparisons: Sequence[tuple[Question, str, str]]) -> list[Decision]:
        """:meth:`compare_all` as a coroutine."""
        return await self._await(self._compare(comparisons))

    def rank(
        self, question: Question, responses: Sequence[str], method: Method = "all_pairs", rounds: int = 0
    ) -> Ranking:
        """The responses to a question in order; for ``method`` and ``rounds`` see :func:`tournaments.next_round`.

        Raises:
            DataError: fewer than two responses, or a text that cannot be judged.
            ValueError: an unknown method.

        """
        return self.rank_all([(question, responses)], method, rounds)[0]

    async def arank(
        self, question: Question, responses: Sequence[str], method: Method = "all_pairs", rounds: int = 0
    ) -> Ranking:
        """:meth:`rank` as a coroutine."""
        return (await self.arank_all([(question, responses)], method, rounds))[0]

    def rank_all(
        self, groups: Sequence[tuple[Question, Sequence[str]]], method: Method = "all_pairs", rounds: int = 0
    ) -> list[Ranking]:
        """:meth:`rank` of many ``(question, responses)`` together; rankings in their order."""
        return self._wait(self._rank(groups, method, rounds))

    async def arank_all(
        self, groups: Sequence[tuple[Question, Sequence[str]]], method: Method = "all_pairs", rounds: int = 0
    ) -> list[Ranking]:
        """:meth:`rank_all` as a coroutine."""
        return await self._await(self._rank(groups, method, rounds))

    async def _compare(self, comparisons: Sequence[tuple[Question, str, str]]) -> list[Decision]:
        pairs: list[PreferencePair] = [
            asked(*comparison, place=f"comparison {number}") for number, comparison in enumerate(comparisons)
        ]
        found = {index: decision async for index, decision in self._judge.decisions(pairs)}
        return [found[index] for index in range(len(pairs))]

    async def _rank(
        self, groups: Sequence[tuple[Question, Sequence[str]]], method: Method, rounds: int
    ) -> list[Ranking]:
        given = [Group(f"group {at}", question, tuple(texts)) for at, (question, texts) in enumerate(groups)]
        return await rank_groups(self._judge.decisions, given, method, rounds)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the engines. May be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
