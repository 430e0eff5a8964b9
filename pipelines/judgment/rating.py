"""How good one response is, from 1 to 10: the mode `pointwise`, the expectation over a judge's votes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from actors.messages import Verdict
from actors.verifier.trace import HIGHEST, LOWEST
from pipelines.data.prompts import PromptTemplate, render_rating
from pipelines.data.schema import DataError, Message, conversation_of, text_field
from pipelines.judgment.judging import JudgingRule, Mode, Showing
from pipelines.judgment.votes import Reasons, Record, Vote, failures_of, hash_of, usage_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingVote(Vote):
    """One rating of a response, or why there is none."""

    rating: int | None


@dataclass(frozen=True, slots=True)
class RatingDecision(Record):
    """How a judge rated one response."""

    score: float | None
    """The rating as a share of its scale, in [0, 1]; None where no vote could be read."""
    rating: float | None
    """The mean over the votes that could be read: the expectation under the distribution they were sampled from."""
    scale: tuple[int, int]
    """Lowest and highest rating."""
    rationale: Reasons | None
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

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> RatingDecision:
        """The decision that ``as_json`` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        reasons = None if row.get("rationale") is None else Reasons(**row["rationale"])
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
        reasons = Reasons.of(min(read, key=lambda item: abs(item[1] - rating))[0].text, "pointwise")
    return RatingDecision(
        score=None if rating is None else (rating - LOWEST) / (HIGHEST - LOWEST),
        rating=rating,
        scale=(LOWEST, HIGHEST),
        rationale=reasons,
        votes=tuple(votes),
        usage=usage_of(votes),
        failures=failures_of(votes),
        model=model,
        weights=weights,
        prompt_hash=hash_of(votes[0].prompt_hash),
    )


class Pointwise(Mode[ToRate, RatingVote, RatingDecision]):
    """Asks about single responses."""

    judged = "pointwise"

    def name(self, item: ToRate) -> str:
        """Where the response comes from."""
        return item.id

    def showings(self, item: ToRate, rule: JudgingRule, template: PromptTemplate) -> Iterator[Showing]:
        """One."""
        yield Showing(render_rating(item.conversation, item.response, template, item.rubric), 0, 1)

    def vote(self, showing: Showing, verdict: Verdict | None, written: Mapping[str, Any]) -> RatingVote:
        """The rating as it was read."""
        return RatingVote(rating=None if verdict is None else verdict.rating, **written)

    def decide(self, votes: Sequence[RatingVote], model: str, weights: str) -> RatingDecision:
        """See :func:`rate`."""
        return rate(votes, model, weights)


POINTWISE = Pointwise()
