"""Ratings of single responses on the scale of 1 to 10: the expectation over a judge's votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from actors.verifier.trace import HIGHEST, LOWEST, parse
from pipelines.data.prompts import render_rating
from pipelines.data.schema import DataError, Message, conversation_of, text_field
from pipelines.judgment.asking import Ballot, Written, ballots, cast, keys_of, usage_of
from pipelines.judgment.decision import hash_of
from pipelines.judgment.judging import PairwiseJudge
from pipelines.judgment.modes import check_mode


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingVote(Written):
    """One rating of a response, or why there is none."""

    rating: int | None


@dataclass(frozen=True, slots=True)
class RatingReasons:
    """The sections of one judgment. A section that is missing or not closed is None."""

    type: str | None
    rubric: str | None
    solution: str | None
    evaluation: str | None
    text: str
    """The whole judgment."""


@dataclass(frozen=True, slots=True)
class RatingDecision:
    """How a judge rated one response."""

    score: float | None
    """The rating as a share of its scale, in [0, 1]; None where no vote could be read."""
    rating: float | None
    """The mean over the votes that could be read: the expectation under the distribution they were sampled from."""
    scale: tuple[int, int]
    """Lowest and highest rating."""
    rationale: RatingReasons | None
    """Of the vote nearest to the rating."""
    votes: tuple[RatingVote, ...]
    usage: Mapping[str, int]
    """``prompt_tokens``, ``completion_tokens`` and ``total_tokens`` of all votes."""
    failures: Mapping[str, int]
    """Votes that could not be read, by cause."""
    model: str
    weights: str
    """Tells these weights from others."""
    prompt_hash: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`of_json` reads back."""
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> RatingDecision:
        """The decision that :meth:`as_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        reasons = None if row.get("rationale") is None else RatingReasons(**row["rationale"])
        votes = tuple(RatingVote(**vote) for vote in row.get("votes", ()))
        return cls(**{**row, "rationale": reasons, "votes": votes, "scale": tuple(row.get("scale", ()))})


@dataclass(frozen=True, slots=True)
class ToRate:
    """A response and the question it answers."""

    id: str
    conversation: tuple[Message, ...]
    response: str
    rubric: str | None = None
    """Criteria to rate it by, beside the judge's own; the template must have a place for them."""


def to_rate(question: Any, response: Any, rubric: Any = None, place: str = "response") -> ToRate:
    """A response to a question, checked.

    ``question`` is a text, or messages ``{role, content}`` that end with the user's.

    Raises:
        DataError: a text is missing, empty, too long or no valid Unicode; names ``place``.

    """
    _checked("response", response, place)
    if rubric is not None:
        checked_rubric(rubric, place)
    return ToRate(place, conversation_of(question, place), response, rubric)


def checked_rubric(rubric: Any, place: str) -> str:
    """Criteria to judge by.

    Raises:
        DataError: they are empty, too long or no valid Unicode; names ``place``.

    """
    return _checked("rubric", rubric, place)


def _checked(name: str, value: Any, place: str) -> str:
    text = text_field({name: value}, name, place)
    if not text.strip():
        raise DataError(f"{place}: the {name} is empty: leave it out")
    return text


def rate(votes: Sequence[RatingVote], model: str, weights: str) -> RatingDecision:
    """One decision from all votes on a response.

    Raises:
        ValueError: there are no votes.

    """
    if not votes:
        raise ValueError("a rating needs votes")
    read = [(vote, vote.rating) for vote in votes if vote.rating is not None]
    rating = fmean(value for _, value in read) if read else None
    reasons = None
    if rating is not None:
        text = min(read, key=lambda item: abs(item[1] - rating))[0].text
        parts = parse(text, "pointwise")
        reasons = RatingReasons(parts.task_type, parts.rubric, parts.solution, parts.evaluation, text)
    return RatingDecision(
        score=None if rating is None else (rating - LOWEST) / (HIGHEST - LOWEST),
        rating=rating,
        scale=(LOWEST, HIGHEST),
        rationale=reasons,
        votes=tuple(votes),
        usage=usage_of(votes),
        failures=dict(Counter(vote.cause for vote in votes if vote.cause is not None)),
        model=model,
        weights=weights,
        prompt_hash=hash_of(votes[0].prompt_hash),
    )


def rating_keys(judge: PairwiseJudge, asked: Sequence[ToRate]) -> list[str]:
    """What each rating depends on, as one hash."""
    return keys_of(judge, len(asked), _ballots(judge, asked), "pointwise")


async def ratings(judge: PairwiseJudge, asked: Sequence[ToRate]) -> AsyncIterator[tuple[int, RatingDecision]]:
    """The index and the rating of every response, as they are complete.

    A vote that cannot be read or written has its cause in the decision.

    Raises:
        ModeUnsupported: the judge was trained for other modes.
        DeadlineExceeded, ActorFailed: the engines do not answer.
        DataError: there is no template for ratings, or the model's chat template refuses a prompt.

    """
    check_mode(judge.model, judge.modes, "pointwise")
    votes: list[list[RatingVote]] = [[] for _ in asked]
    waiting = list(_ballots(judge, asked))
    async for ballot, verdict, fields in cast(judge, waiting, "pointwise", dict.fromkeys(range(len(asked)), 1)):
        mine = votes[ballot.item]
        mine.append(RatingVote(rating=None if verdict is None else verdict.rating, **fields))
        if len(mine) == judge.rule.votes:
            yield ballot.item, rate(sorted(mine, key=lambda vote: vote.number), judge.model, judge.weights)


def _ballots(judge: PairwiseJudge, asked: Sequence[ToRate]) -> Iterator[Ballot]:
    template = judge.template_for("pointwise")
    return ballots(
        judge,
        (
            (index, 0, render_rating(item.conversation, item.response, template, item.rubric))
            for index, item in enumerate(asked)
        ),
    )
