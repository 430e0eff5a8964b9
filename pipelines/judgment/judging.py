"""The judging core: what is to be judged to prompts, prompts to engines, traces to votes, votes to decisions.

One path for all modes; a :class:`Mode` is a template, a row of the parser and what votes come to. Prompts, engines and
the parser are those of training. A response is text in a prompt and nothing else: no control token comes from it
(:mod:`pipelines.data.tokens`), and an answer is read from what the judge generated alone.
"""

from __future__ import annotations

import asyncio
import json
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from actors.messages import GenerationFailure, JudgeMode, Order, Prompt, Sampling, Trace, Verdict
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.data.prompts import PromptTemplate, encode_all, render
from pipelines.data.schema import DataError, PreferencePair, validate
from pipelines.evaluation.confidence import verdict_logprob
from pipelines.judgment.modes import check_mode
from pipelines.judgment.votes import Vote, hash_of

TOO_LONG = "prompt_too_long"
"""Cause of what was not judged, because its prompt leaves no room for a judgment."""
I = TypeVar("I")  # noqa: E741
V = TypeVar("V", bound=Vote)
D = TypeVar("D")
R = TypeVar("R")
_LONG = 50_000
"""Characters that take some hundredths of a second to become tokens."""


class Engines(Protocol):
    """What writes traces, such as :class:`actors.rollout.fleet.RolloutFleet`."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Every sample of every prompt once, in lists as they finish."""


@dataclass(frozen=True, slots=True)
class JudgingRule:
    """How responses are judged."""

    orders: tuple[str, ...]
    """Of two responses: see :data:`pipelines.judgment.decision.SHOWN`."""
    votes: int
    """Per prompt."""
    temperature: float
    max_prompt_tokens: int
    max_tokens: int
    """Of one judgment."""
    mode: VerdictMode
    seed: int


@dataclass(frozen=True, slots=True)
class Showing:
    """One prompt about an item."""

    messages: list[dict[str, str]]
    placed: Any
    """How the responses stand in it, as the mode's votes name it; tells an item's prompts apart, and sorts them."""
    responses: int
    """How many it shows."""
    order: Order = "chosen_first"


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote that is to be cast."""

    item: int
    """Index of what is judged."""
    showing: Showing
    number: int
    token_ids: tuple[int, ...]
    prompt_hash: str

    @property
    def uid(self) -> str:
        """Of content alone, so that a vote's randomness is the same whoever asks, and with whatever else."""
        return f"{self.prompt_hash}/{self.number}"

    def prompt(self, name: str, judged: JudgeMode) -> Prompt:
        """As engines take it."""
        order, shown = self.showing.order, self.showing.responses
        return Prompt(
            self.uid, name, order, "A" if order == "chosen_first" else "B", "all", self.token_ids, judged, shown
        )

    def written(
        self, cause: str | None, text: str = "", tokens: int = 0, probability: float | None = None
    ) -> dict[str, Any]:
        """The fields of a :class:`Vote`."""
        return {
            "number": self.number,
            "cause": cause,
            "probability": probability,
            "text": text,
            "prompt_tokens": len(self.token_ids) if tokens else 0,
            "completion_tokens": tokens,
            "prompt_hash": self.prompt_hash,
        }


class Mode(ABC, Generic[I, V, D]):
    """A way to ask a judge about items, read its votes, and decide by them."""

    judged: JudgeMode
    """Its row in the parser."""

    @abstractmethod
    def name(self, item: I) -> str:
        """What messages call an item."""

    @abstractmethod
    def showings(self, item: I, rule: JudgingRule, template: PromptTemplate) -> Iterable[Showing]:
        """Every prompt about an item; none where there is nothing to ask."""

    @abstractmethod
    def vote(self, showing: Showing, verdict: Verdict | None, written: Mapping[str, Any]) -> V:
        """The vote that says what was read, or None; ``written`` are the fields of a :class:`Vote`."""

    @abstractmethod
    def decide(self, votes: Sequence[V], model: str, weights: str) -> D:
        """What all votes on an item come to, given in the order of showings and numbers."""


def asked(question: Any, response_a: Any, response_b: Any, place: str = "comparison") -> PreferencePair:
    """Two responses to a question as the record that prompts are made of, in which a stands as the chosen one.

    ``question`` is a text, or messages ``{role, content}`` that end with the user's.

    Raises:
        DataError: a text is missing, empty, too long or no valid Unicode, or both responses are equal; names ``place``.

    """
    row = {"prompt": question, "response_a": response_a, "response_b": response_b, "label": "A"}
    return validate(row, place=place)


async def without_blocking(length: int, work: Callable[[], R]) -> R:
    """What ``work`` on texts of so many characters returns. Long ones are worked on in a thread: a server has others to
    answer meanwhile."""
    return await asyncio.to_thread(work) if length > _LONG else work()


def encoded(
    ordered: Iterable[tuple[PreferencePair, Order]], template: PromptTemplate, tokenizer: Any | None
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Token ids of each pair in its order, and their SHA-256; without a tokenizer none, and that of the messages."""
    return encoded_messages((render(pair, order, template) for pair, order in ordered), tokenizer)


def encoded_messages(
    prompts: Iterable[list[dict[str, str]]], tokenizer: Any | None
) -> Iterator[tuple[tuple[int, ...], str]]:
    """As :func:`encoded`, of prompts given as messages."""
    if tokenizer is None:
        yield from (((), hash_of(json.dumps(messages))) for messages in prompts)
        return
    for token_ids in encode_all(prompts, tokenizer):
        yield tuple(token_ids), hash_of(*token_ids)


def logprob_of(trace: Trace, said: str | None, mode: VerdictMode, tokenizer: Any) -> float | None:
    """Log-probability of the token that carries what a trace said, a side or a rating; None where that is not known."""
    if not len(trace.logprobs):
        return None
    return verdict_logprob(trace.token_ids, trace.logprobs, trace.text, said, mode, tokenizer)


@dataclass(frozen=True, slots=True)
class EngineJudge:
    """A judge with engines that hold one model."""

    engines: Engines
    template: PromptTemplate
    tokenizer: Any
    model: str
    """Folder or hub name."""
    weights: str
    """Tells these weights from others."""
    rule: JudgingRule
    modes: tuple[JudgeMode, ...] | None = None
    """What it was trained to be asked, where that is known."""
    templates: Mapping[JudgeMode, PromptTemplate] = field(default_factory=dict)
    """Of the other modes."""

    def template_for(self, judged: JudgeMode) -> PromptTemplate:
        """The template of a mode.

        Raises:
            DataError: there is none.

        """
        if judged == "pairwise":
            return self.template
        if judged not in self.templates:
            raise DataError(f"the prompt template of {self.model} has none for mode {judged}: write one beside it")
        return self.templates[judged]

    def keys(self, mode: Mode[I, V, D], items: Sequence[I]) -> list[str]:
        """What each item's decision depends on, as one hash: mode, prompts, rule and weights."""
        ballots: list[list[str]] = [[] for _ in items]
        for ballot in self._ballots(self._showings(mode, items)):
            ballots[ballot.item].append(f"{ballot.showing.placed}/{ballot.uid}")
        # Journals of pairs are older than the other modes, and their keys hold.
        named = () if mode.judged == "pairwise" else (mode.judged,)
        return [hash_of(*named, self.weights, asdict(self.rule), *ballot) for ballot in ballots]

    async def answers(self, mode: Mode[I, V, D], items: Sequence[I]) -> AsyncIterator[tuple[int, D]]:
        """The index and the decision of every item, as they are complete.

        A vote that cannot be read or written has its cause in the decision. Equal prompts are asked once.

        Raises:
            ModeUnsupported: the judge was trained for other modes.
            DeadlineExceeded, ActorFailed: the engines do not answer.
            DataError: the mode has no template, or the model's chat template refuses a prompt.

        """
        check_mode(self.model, self.modes, mode.judged)
        rule = self.rule
        cast: list[list[tuple[Ballot, V]]] = [[] for _ in items]
        wanted = [0] * len(items)
        waiting: dict[str, list[Ballot]] = {}
        shown = self._showings(mode, items)
        length = sum(len(message["content"]) for _, showing in shown for message in showing.messages)
        for ballot in await without_blocking(length, lambda: list(self._ballots(shown))):
            wanted[ballot.item] += 1
            if len(ballot.token_ids) > rule.max_prompt_tokens:
                cast[ballot.item].append((ballot, mode.vote(ballot.showing, None, ballot.written(TOO_LONG))))
            else:
                waiting.setdefault(ballot.uid, []).append(ballot)
        for index, votes in enumerate(cast):
            if len(votes) == wanted[index]:
                yield index, self._decide(mode, votes)
        prompts = [ballot.prompt(mode.name(items[ballot.item]), mode.judged) for ballot, *_ in waiting.values()]
        sampling = Sampling(1, rule.temperature, 1.0, rule.max_tokens, rule.seed, logprobs=True)
        async for finished in self.engines.generate(prompts, sampling):
            for item in finished:
                for ballot in waiting.pop(item.prompt_uid):
                    votes = cast[ballot.item]
                    votes.append((ballot, mode.vote(ballot.showing, *self._read(mode.judged, ballot, item))))
                    if len(votes) == wanted[ballot.item]:
                        yield ballot.item, self._decide(mode, votes)

    def _showings(self, mode: Mode[I, V, D], items: Sequence[I]) -> list[tuple[int, Showing]]:
        """With the index of its item."""
        template = self.template_for(mode.judged)
        return [
            (index, shown) for index, item in enumerate(items) for shown in mode.showings(item, self.rule, template)
        ]

    def _ballots(self, asked: Sequence[tuple[int, Showing]]) -> Iterator[Ballot]:
        prompts = encoded_messages((showing.messages for _, showing in asked), self.tokenizer)
        for (index, showing), (token_ids, digest) in zip(asked, prompts, strict=True):
            for number in range(self.rule.votes):
                yield Ballot(index, showing, number, token_ids, digest)

    def _read(
        self, judged: JudgeMode, ballot: Ballot, item: Trace | GenerationFailure
    ) -> tuple[Verdict | None, dict[str, Any]]:
        """What was read, or None, and the fields of a :class:`Vote`."""
        if isinstance(item, GenerationFailure):
            return None, ballot.written(item.cause, text=item.detail)
        mode, truncated, shown = self.rule.mode, item.finish_reason == "length", ballot.showing.responses
        verdict = read_verdict(item.text, mode, truncated=truncated, judged=judged, responses=shown)
        # An order has several tokens.
        rating = None if verdict.rating is None else str(verdict.rating)
        said = rating if verdict.side is None or verdict.ranking is not None else verdict.side
        logprob = logprob_of(item, said, mode, self.tokenizer)
        probability = None if logprob is None else min(1.0, math.exp(logprob))
        return verdict, ballot.written(verdict.cause, item.text, len(item.token_ids), probability)

    def _decide(self, mode: Mode[I, V, D], votes: list[tuple[Ballot, V]]) -> D:
        votes.sort(key=lambda cast: (cast[0].showing.placed, cast[0].number))
        return mode.decide([vote for _, vote in votes], self.model, self.weights)


async def in_order(answers: AsyncIterator[tuple[int, D]], progress: Callable[[int], None] | None = None) -> list[D]:
    """All answers by their index. ``progress`` is told how many there are."""
    found: dict[int, D] = {}
    async for index, answer in answers:
        found[index] = answer
        if progress is not None:
            progress(len(found))
    return [found[index] for index in range(len(found))]
