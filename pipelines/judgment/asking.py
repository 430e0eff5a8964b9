"""What ratings and lists have in common: many prompts to the engines at once, each vote back as it is cast."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.messages import GenerationFailure, JudgeMode, Prompt, Sampling, Trace, Verdict
from actors.verifier.trace import read_verdict
from pipelines.data.prompts import encode_all
from pipelines.evaluation.confidence import verdict_logprob
from pipelines.judgment.decision import hash_of
from pipelines.judgment.judging import TOO_LONG, PairwiseJudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One judgment, or why there is none."""

    number: int
    """Which of the votes on its prompt, from 0."""
    cause: str | None
    """Why nothing could be read: a parse failure, ``prompt_too_long``, or what kept the engine from writing."""
    probability: float | None
    """Of the token that carries the answer, under the distribution it was sampled from."""
    text: str
    prompt_tokens: int
    completion_tokens: int
    prompt_hash: str
    """SHA-256 of the prompt's token ids."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote that is to be cast."""

    item: int
    """Index of what is judged."""
    rotation: int
    number: int
    token_ids: tuple[int, ...]
    prompt_hash: str

    @property
    def uid(self) -> str:
        """Of content alone, so that a vote's randomness is the same whoever asks, and with whatever else."""
        return f"{self.prompt_hash}/{self.number}"


def ballots(judge: PairwiseJudge, prompts: Iterable[tuple[int, int, list[dict[str, str]]]]) -> Iterator[Ballot]:
    """Every vote on prompts given as item, rotation and messages."""
    asked = list(prompts)
    encoded: Iterable[Sequence[int]] = encode_all((messages for *_, messages in asked), judge.tokenizer)
    for (item, rotation, _), token_ids in zip(asked, encoded, strict=True):
        digest = hash_of(*token_ids)
        for number in range(judge.rule.votes):
            yield Ballot(item, rotation, number, tuple(token_ids), digest)


async def cast(
    judge: PairwiseJudge, waiting: Sequence[Ballot], judged: JudgeMode, responses: Mapping[int, int]
) -> AsyncIterator[tuple[Ballot, Verdict | None, dict[str, Any]]]:
    """Every ballot once, as it is cast: what was read, or None, and the fields of :class:`Written`.

    ``responses`` says how many each item shows. Equal prompts are asked once.

    Raises:
        DeadlineExceeded, ActorFailed: the engines do not answer.

    """
    rule = judge.rule
    open_ballots: dict[str, list[Ballot]] = {}
    for ballot in waiting:
        if len(ballot.token_ids) > rule.max_prompt_tokens:
            yield ballot, None, _written(ballot, TOO_LONG)
        else:
            open_ballots.setdefault(ballot.uid, []).append(ballot)
    first = (each[0] for each in open_ballots.values())
    prompts = [
        Prompt(ballot.uid, str(ballot.item), "chosen_first", "A", "all", ballot.token_ids, judged) for ballot in first
    ]
    sampling = Sampling(1, rule.temperature, 1.0, rule.max_tokens, rule.seed, logprobs=True)
    async for finished in judge.engines.generate(prompts, sampling):
        for item in finished:
            for ballot in open_ballots.pop(item.prompt_uid):
                yield ballot, *_read(judge, ballot, item, judged, responses[ballot.item])


def _read(
    judge: PairwiseJudge, ballot: Ballot, item: Trace | GenerationFailure, judged: JudgeMode, responses: int
) -> tuple[Verdict | None, dict[str, Any]]:
    if isinstance(item, GenerationFailure):
        return None, _written(ballot, item.cause, text=item.detail)
    mode = judge.rule.mode
    truncated = item.finish_reason == "length"
    verdict = read_verdict(item.text, mode, truncated=truncated, judged=judged, responses=responses)
    fields = _written(ballot, verdict.cause, item.text, len(item.token_ids), _probability(judge, item, verdict))
    return (verdict if verdict.cause is None else None), fields


def _probability(judge: PairwiseJudge, trace: Trace, verdict: Verdict) -> float | None:
    """Of the first token of a rating; of an order, none: it has several."""
    if verdict.rating is None or not len(trace.logprobs):
        return None
    said, mode = str(verdict.rating), judge.rule.mode
    logprob = verdict_logprob(trace.token_ids, trace.logprobs, trace.text, said, mode, judge.tokenizer)
    return None if logprob is None else min(1.0, math.exp(logprob))


def _written(
    ballot: Ballot, cause: str | None, text: str = "", tokens: int = 0, probability: float | None = None
) -> dict[str, Any]:
    return {
        "number": ballot.number,
        "cause": cause,
        "probability": probability,
        "text": text,
        "prompt_tokens": len(ballot.token_ids) if tokens else 0,
        "completion_tokens": tokens,
        "prompt_hash": ballot.prompt_hash,
    }


def keys_of(judge: PairwiseJudge, items: int, cast_for: Iterable[Ballot], judged: JudgeMode) -> list[str]:
    """What each item's judgment depends on, as one hash: mode, prompts, rule and weights."""
    parts: list[list[str]] = [[] for _ in range(items)]
    for ballot in cast_for:
        parts[ballot.item].append(f"{ballot.rotation}/{ballot.uid}")
    rule = judge.rule
    settings = json.dumps([rule.votes, rule.temperature, rule.max_prompt_tokens, rule.max_tokens, rule.mode, rule.seed])
    return [hash_of(judged, judge.weights, settings, *mine) for mine in parts]


def usage_of(votes: Sequence[Written]) -> dict[str, int]:
    """Tokens of all votes."""
    read, written = sum(vote.prompt_tokens for vote in votes), sum(vote.completion_tokens for vote in votes)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
