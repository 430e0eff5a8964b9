"""Which of two responses is better: the mode `pairwise`, from votes in both orders to one decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal, get_args

from actors.messages import Order, Verdict
from pipelines.data.prompts import PromptTemplate, render
from pipelines.data.schema import PreferencePair
from pipelines.judgment.judging import JudgingRule, Mode, Showing
from pipelines.judgment.votes import Reasons, Record, Vote, failures_of, hash_of, usage_of

Winner = Literal["a", "b", "tie"]
_Side = Literal["a", "b"]
_SIDES: tuple[_Side, ...] = get_args(_Side)
Shown = Literal["a_first", "b_first"]
"""An order: which response the judge read first, as its A."""
SHOWN: tuple[Shown, ...] = get_args(Shown)


_ORDER: dict[str, Order] = {"a_first": "chosen_first", "b_first": "chosen_second"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairVote(Vote):
    """One judgment of two responses in one order, or why there is none. The text's A is the response shown first."""

    FIRST: ClassVar[tuple[str, ...]] = ("order", "number", "winner")
    order: Shown
    winner: _Side | None
    """The response that the judge named; None: no verdict, see ``cause``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale(Reasons):
    """The sections of one judgment of two responses."""

    FIRST: ClassVar[tuple[str, ...]] = ("order",)
    order: Shown
    """How the responses were shown: with ``b_first``, what the text calls A is response b."""


@dataclass(frozen=True, slots=True)
class Decision(Record):
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
    votes: tuple[PairVote, ...]
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

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Decision:
        """The decision that ``as_json`` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        rationale = None if row.get("rationale") is None else Rationale(**row["rationale"])
        votes = tuple(PairVote(**vote) for vote in row.get("votes", ()))
        return cls(**{**row, "rationale": rationale, "votes": votes})


def decide(votes: Sequence[PairVote], model: str, weights: str) -> Decision:
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
    return Decision(
        winner=winner,
        score=fmean(fmean(map(_share, ballot)) for ballot in ballots.values()),
        confidence={"a": sure, "b": 1 - sure, "tie": 1 - abs(2 * sure - 1)}[winner],
        consistent=(len(named) == 1 and None not in named) if len(ballots) > 1 else None,
        flipped={"a", "b"} <= named,
        verdicts=verdicts,
        rationale=_rationale(votes, winner),
        votes=tuple(votes),
        usage=usage_of(votes),
        failures=failures_of(votes),
        model=model,
        weights=weights,
        prompt_hash=hash_of(*(ballot[0].prompt_hash for ballot in ballots.values())),
    )


class Pairwise(Mode[PreferencePair, PairVote, Decision]):
    """Asks about pairs, of which response a is the ``chosen`` one, in the orders of the rule."""

    judged = "pairwise"

    def name(self, item: PreferencePair) -> str:
        """The pair's id."""
        return item.id

    def showings(self, item: PreferencePair, rule: JudgingRule, template: PromptTemplate) -> Iterator[Showing]:
        """One for each order; a prompt that came ready made has one, whatever is asked for."""
        for shown in SHOWN[:1] if item.ready_made else rule.orders:
            order = _ORDER[shown]
            yield Showing(render(item, order, template), shown, 2, order)

    def vote(self, showing: Showing, verdict: Verdict | None, written: Mapping[str, Any]) -> PairVote:
        """The judge's letters as the responses they stand for."""
        first, second = _SIDES if showing.placed == "a_first" else _SIDES[::-1]
        winner = {"A": first, "B": second}.get(verdict.side or "") if verdict else None
        return PairVote(order=showing.placed, winner=winner, **written)

    def decide(self, votes: Sequence[PairVote], model: str, weights: str) -> Decision:
        """See :func:`decide`."""
        return decide(votes, model, weights)


PAIRWISE = Pairwise()


def _share(vote: PairVote) -> float:
    return {"a": 1.0, "b": 0.0, None: 0.5}[vote.winner]


def _support(vote: PairVote) -> float:
    """Probability that a vote gives to a; one whose token could not be told counts as sure."""
    if vote.winner is None:
        return 0.5
    probability = 1.0 if vote.probability is None else vote.probability
    return probability if vote.winner == "a" else 1 - probability


def _majority(ballot: Sequence[PairVote]) -> Winner | None:
    for_a, for_b = (sum(vote.winner == side for vote in ballot) for side in ("a", "b"))
    if for_a == for_b:
        return "tie" if for_a else None
    return "a" if for_a > for_b else "b"


def _rationale(votes: Sequence[PairVote], winner: Winner) -> Rationale | None:
    read = [vote for vote in votes if vote.winner is not None]
    vote = next((vote for vote in read if vote.winner == winner), read[0] if read else None)
    return None if vote is None else Rationale.of(vote.text, "pairwise", order=vote.order)
