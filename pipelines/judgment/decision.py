"""From a judge's votes on two responses, in both orders, to one decision: pure functions on plain records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from actors.verifier.trace import parse

Winner = Literal["a", "b", "tie"]
Shown = Literal["a_first", "b_first"]
"""An order: which response the judge read first, as its A."""
SHOWN: tuple[Shown, ...] = get_args(Shown)


@dataclass(frozen=True, slots=True)
class Vote:
    """One judgment of two responses in one order, or why there is none."""

    order: Shown
    number: int
    """Which of the votes in its order, from 0."""
    winner: Literal["a", "b"] | None
    """The response that the judge named; None: no verdict, see ``cause``."""
    cause: str | None
    """Why nothing could be read: a parse failure, ``prompt_too_long``, or what kept the engine from writing."""
    probability: float | None
    """Of the token that carries the verdict, under the distribution it was sampled from."""
    text: str
    """What the judge wrote; its A is the response shown first."""
    prompt_tokens: int
    completion_tokens: int
    prompt_hash: str
    """SHA-256 of the prompt's token ids."""


@dataclass(frozen=True, slots=True)
class Rationale:
    """The sections of one judgment. A section that is missing or not closed is None."""

    order: Shown
    """How the responses were shown: with ``b_first``, what the text calls A is response b."""
    type: str | None
    rubric: str | None
    solution: str | None
    evaluation: str | None
    text: str
    """The whole judgment."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a judge decided about two responses."""

    winner: Winner
    """The response that every order names; otherwise a tie."""
    score: float
    """How probable it is that a is better, from the votes: the mean over orders of a's share; what was not read counts
    half. In [0, 1]."""
    confidence: float
    """How sure the judge was of ``winner``, in [0, 1]: see :func:`decide`."""
    consistent: bool | None
    """Whether both orders name the same response; None where only one order was asked."""
    flipped: bool
    """Whether the orders name opposite responses: the tie is one of position, not of quality."""
    verdicts: Mapping[str, Winner | None]
    """The majority of each order; None where no vote of it could be read."""
    rationale: Rationale | None
    """Of a vote for the winner, from the first order that has one; of a tie, the first that was read."""
    votes: tuple[Vote, ...]
    usage: Mapping[str, int]
    """``prompt_tokens``, ``completion_tokens`` and ``total_tokens`` of all votes."""
    failures: Mapping[str, int]
    """Votes that could not be read, by cause."""
    model: str
    weights: str
    """Tells these weights from others."""
    prompt_hash: str
    """SHA-256 over the prompts of all orders."""

    @property
    def read(self) -> int:
        """Votes that have a verdict."""
        return sum(vote.winner is not None for vote in self.votes)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`of_json` reads back."""
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`as_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        rationale = None if row.get("rationale") is None else Rationale(**row["rationale"])
        votes = tuple(Vote(**vote) for vote in row.get("votes", ()))
        return cls(**{**row, "rationale": rationale, "votes": votes})


def decide(votes: Sequence[Vote], model: str, weights: str) -> Decision:
    """One decision from the votes of all orders that were asked.

    A response wins if the majority of every order names it. ``confidence`` comes from the probabilities of the
    verdicts' tokens: with ``s`` the mean over orders of the probability given to a (half where nothing was read), it is
    ``s`` if a wins, ``1 - s`` if b does, and ``1 - |2s - 1|`` for a tie.

    Raises:
        ValueError: there are no votes.

    """
    if not votes:
        raise ValueError("a decision needs votes")
    ballots = {order: [vote for vote in votes if vote.order == order] for order in SHOWN}
    ballots = {order: ballot for order, ballot in ballots.items() if ballot}
    verdicts: dict[str, Winner | None] = {order: _majority(ballot) for order, ballot in ballots.items()}
    named = set(verdicts.values())
    winner: Winner = "a" if named == {"a"} else "b" if named == {"b"} else "tie"
    sure = fmean(fmean(map(_support, ballot)) for ballot in ballots.values())
    usage = {
        "prompt_tokens": sum(vote.prompt_tokens for vote in votes),
        "completion_tokens": sum(vote.completion_tokens for vote in votes),
    }
    return Decision(
        winner=winner,
        score=fmean(fmean(map(_share, ballot)) for ballot in ballots.values()),
        confidence={"a": sure, "b": 1 - sure, "tie": 1 - abs(2 * sure - 1)}[winner],
        consistent=(len(named) == 1 and None not in named) if len(ballots) > 1 else None,
        flipped={"a", "b"} <= named,
        verdicts=verdicts,
        rationale=_rationale(votes, winner),
        votes=tuple(votes),
        usage={**usage, "total_tokens": sum(usage.values())},
        failures=dict(Counter(vote.cause for vote in votes if vote.cause is not None)),
        model=model,
        weights=weights,
        prompt_hash=hash_of(*(ballot[0].prompt_hash for ballot in ballots.values())),
    )


def hash_of(*parts: Any) -> str:
    """SHA-256 of values, hexadecimal."""
    return hashlib.sha256(",".join(map(str, parts)).encode()).hexdigest()


def _share(vote: Vote) -> float:
    return {"a": 1.0, "b": 0.0, None: 0.5}[vote.winner]


def _support(vote: Vote) -> float:
    """Probability that a vote gives to a; one whose token could not be told counts as sure."""
    if vote.winner is None:
        return 0.5
    probability = 1.0 if vote.probability is None else vote.probability
    return probability if vote.winner == "a" else 1 - probability


def _majority(ballot: Sequence[Vote]) -> Winner | None:
    for_a, for_b = (sum(vote.winner == side for vote in ballot) for side in ("a", "b"))
    if for_a == for_b:
        return "tie" if for_a else None
    return "a" if for_a > for_b else "b"


def _rationale(votes: Sequence[Vote], winner: Winner) -> Rationale | None:
    read = [vote for vote in votes if vote.winner is not None]
    vote = next((vote for vote in read if vote.winner == winner), read[0] if read else None)
    if vote is None:
        return None
    parts = parse(vote.text)
    return Rationale(vote.order, parts.task_type, parts.rubric, parts.solution, parts.evaluation, vote.text)
