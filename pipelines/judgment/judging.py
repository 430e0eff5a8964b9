"""The judging core: pairs of responses to prompts in both orders, prompts to engines, traces to decisions.

Prompts, engines and the parser are those of training. A response is text in a prompt and nothing else: no control token
comes from it (:mod:`pipelines.data.tokens`), and a verdict is read from what the judge generated alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from actors.messages import GenerationFailure, JudgeMode, Order, Prompt, Sampling, Side, Trace
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.data.prompts import PromptTemplate, encode_all, render
from pipelines.data.schema import DataError, PreferencePair, validate
from pipelines.evaluation.confidence import verdict_logprob
from pipelines.judgment.decision import SHOWN, Decision, Shown, Vote, decide, hash_of

TOO_LONG = "prompt_too_long"
"""Cause of a comparison that was not judged, because its prompt leaves no room for a judgment."""
_ORDER: dict[Shown, Order] = {"a_first": "chosen_first", "b_first": "chosen_second"}


class Engines(Protocol):
    """What writes traces, such as :class:`actors.rollout.fleet.RolloutFleet`."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Every sample of every prompt once, in lists as they finish."""


@dataclass(frozen=True, slots=True)
class JudgingRule:
    """How two responses are judged."""

    orders: tuple[Shown, ...]
    votes: int
    """Per order."""
    temperature: float
    max_prompt_tokens: int
    max_tokens: int
    """Of one judgment."""
    mode: VerdictMode
    seed: int


def asked(question: Any, response_a: Any, response_b: Any, place: str = "comparison") -> PreferencePair:
    """Two responses to a question as the record that prompts are made of, in which a stands as the chosen one.

    ``question`` is a text, or messages ``{role, content}`` that end with the user's.

    Raises:
        DataError: a text is missing, empty, too long or no valid Unicode, or both responses are equal; names ``place``.

    """
    row = {"prompt": question, "response_a": response_a, "response_b": response_b, "label": "A"}
    return validate(row, place=place)


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


def logprob_of(trace: Trace, side: Side | None, mode: VerdictMode, tokenizer: Any) -> float | None:
    """Log-probability of the token that carries a trace's verdict; None without a verdict or log-probabilities."""
    if not len(trace.logprobs):
        return None
    return verdict_logprob(trace.token_ids, trace.logprobs, trace.text, side, mode, tokenizer)


@dataclass(frozen=True, slots=True)
class _Ballot:
    """One vote that is to be cast."""

    pair: int
    """Index of its pair."""
    order: Shown
    number: int
    token_ids: tuple[int, ...]
    prompt_hash: str

    @property
    def uid(self) -> str:
        """Of content alone, so that a vote's randomness is the same whoever asks, and with whatever else."""
        return f"{self.prompt_hash}/{self.number}"

    def vote(
        self,
        winner: Any,
        cause: str | None,
        probability: float | None = None,
        text: str = "",
        tokens: int = 0,
    ) -> Vote:
        read = len(self.token_ids) if tokens else 0
        return Vote(self.order, self.number, winner, cause, probability, text, read, tokens, self.prompt_hash)


@dataclass(frozen=True, slots=True)
class PairwiseJudge:
    """Decides between two responses, with engines that hold one model."""

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

    def keys(self, pairs: Sequence[PreferencePair]) -> list[str]:
        """What each pair's decision depends on, as one hash: prompts, rule and weights."""
        ballots: list[list[str]] = [[] for _ in pairs]
        for ballot in self._ballots(pairs):
            ballots[ballot.pair].append(f"{ballot.order}/{ballot.uid}")
        return [hash_of(self.weights, asdict(self.rule), *ballot) for ballot in ballots]

    async def decisions(self, pairs: Sequence[PreferencePair]) -> AsyncIterator[tuple[int, Decision]]:
        """The index and the decision of every pair, as they are complete; response a is the ``chosen`` one.

        A vote that cannot be read or written has its cause in the decision. Equal prompts are asked once.

        Raises:
            DeadlineExceeded, ActorFailed: the engines do not answer.
            DataError: the model's chat template refuses a prompt.

        """
        rule = self.rule
        cast: list[list[Vote]] = [[] for _ in pairs]
        wanted = [0] * len(pairs)
        waiting: dict[str, list[_Ballot]] = {}
        for ballot in self._ballots(pairs):
            wanted[ballot.pair] += 1
            if len(ballot.token_ids) > rule.max_prompt_tokens:
                cast[ballot.pair].append(ballot.vote(None, TOO_LONG))
            else:
                waiting.setdefault(ballot.uid, []).append(ballot)
        for index, votes in enumerate(cast):
            if len(votes) == wanted[index]:
                yield index, self._decide(votes)
        sampling = Sampling(1, rule.temperature, 1.0, rule.max_tokens, rule.seed, logprobs=True)
        async for finished in self.engines.generate(_prompts(pairs, waiting), sampling):
            for item in finished:
                for ballot in waiting.pop(item.prompt_uid):
                    votes = cast[ballot.pair]
                    votes.append(self._vote(ballot, item))
                    if len(votes) == wanted[ballot.pair]:
                        yield ballot.pair, self._decide(votes)

    def _ballots(self, pairs: Sequence[PreferencePair]) -> Iterator[_Ballot]:
        asked = [
            (index, shown)
            for index, pair in enumerate(pairs)
            # A prompt that came ready made has one order, whatever is asked for.
            for shown in (SHOWN[:1] if pair.ready_made else self.rule.orders)
        ]
        prompts = encoded(((pairs[index], _ORDER[shown]) for index, shown in asked), self.template, self.tokenizer)
        for (index, shown), (token_ids, digest) in zip(asked, prompts, strict=True):
            for number in range(self.rule.votes):
                yield _Ballot(index, shown, number, token_ids, digest)

    def _vote(self, ballot: _Ballot, item: Trace | GenerationFailure) -> Vote:
        if isinstance(item, GenerationFailure):
            return ballot.vote(None, item.cause, text=item.detail)
        mode = self.rule.mode
        verdict = read_verdict(item.text, mode, truncated=item.finish_reason == "length")
        logprob = logprob_of(item, verdict.side, mode, self.tokenizer)
        first = "a" if ballot.order == "a_first" else "b"
        winner = None if verdict.side is None else first if verdict.side == "A" else "b" if first == "a" else "a"
        probability = None if logprob is None else min(1.0, math.exp(logprob))
        return ballot.vote(winner, verdict.cause, probability, item.text, len(item.token_ids))

    def _decide(self, votes: list[Vote]) -> Decision:
        return decide(sorted(votes, key=lambda vote: (vote.order, vote.number)), self.model, self.weights)


def _prompts(pairs: Sequence[PreferencePair], waiting: dict[str, list[_Ballot]]) -> list[Prompt]:
    prompts = []
    for uid, (ballot, *_) in waiting.items():
        label: Side = "A" if ballot.order == "a_first" else "B"
        pair = pairs[ballot.pair]
        prompts.append(Prompt(uid, pair.id, _ORDER[ballot.order], label, pair.domain, ballot.token_ids))
    return prompts
