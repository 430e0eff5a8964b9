"""Orders of at most four responses that one prompt shows together, averaged over rotated positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from actors.verifier.trace import LETTERS
from pipelines.data.prompts import render_list
from pipelines.data.schema import DataError, conversation_of
from pipelines.judgment.asking import Ballot, Written, ballots, cast, keys_of, usage_of
from pipelines.judgment.judging import PairwiseJudge
from pipelines.judgment.modes import check_mode
from pipelines.judgment.ranking import Contest, Group, Ranking, contest_of, ranked

MOST = len(LETTERS)
"""Responses that one prompt shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVote(Written):
    """One order of all responses, or why there is none."""

    rotation: int
    """By how many places the responses were moved: the response shown first."""
    ranking: tuple[int, ...] | None
    """Different responses, in the order given, best first."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All orders that a judge gave for the responses of one group."""

    votes: tuple[ListVote, ...]
    usage: Mapping[str, int]
    failures: Mapping[str, int]
    """Votes that could not be read, by cause."""
    model: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`of_json` reads back."""
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Listing:
        """The listing that :meth:`as_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        votes = [{**vote, "ranking": vote["ranking"] and tuple(vote["ranking"])} for vote in row.get("votes", ())]
        return cls(**{**row, "votes": tuple(ListVote(**vote) for vote in votes)})

    def shares(self) -> dict[tuple[int, int], float]:
        """For ``i < j``, the share of the orders that could be read in which i stands before j."""
        read = [vote.ranking for vote in self.votes if vote.ranking is not None]
        pairs = combinations(range(len(read[0]) if read else 0), 2)
        return {(i, j): sum(order.index(i) < order.index(j) for order in read) / len(read) for i, j in pairs}


def check_size(group: Group) -> None:
    """Refuse a group of more responses than one prompt shows.

    Raises:
        DataError: naming the group.

    """
    if len(set(map(str.strip, group.responses))) > MOST:
        raise DataError(
            f"{group.id}: {len(group.responses)} responses, and listwise shows at most {MOST} together: use another "
            "method, such as circular"
        )


def contests_of(groups: Sequence[Group]) -> list[Contest]:
    """The groups, checked; equal responses are one contestant.

    Raises:
        DataError: a group has fewer than two responses or too many, or a text that cannot be judged.

    """
    contests = [contest_of(group) for group in groups]
    for group in groups:
        check_size(group)
    return contests


def listing_keys(judge: PairwiseJudge, contests: Sequence[Contest]) -> list[str]:
    """What each listing depends on, as one hash."""
    return keys_of(judge, len(contests), _ballots(judge, contests), "listwise")


async def listings(judge: PairwiseJudge, contests: Sequence[Contest]) -> AsyncIterator[tuple[int, Listing]]:
    """The index and all orders of every contest, as they are complete; of one contestant, none.

    Each of n contestants stands once in each of n positions.

    Raises:
        ModeUnsupported: the judge was trained for other modes.
        DeadlineExceeded, ActorFailed: the engines do not answer.
        DataError: there is no template for lists, or the model's chat template refuses a prompt.

    """
    check_mode(judge.model, judge.modes, "listwise")
    sizes = [len(contest.places) for contest in contests]
    votes: list[list[ListVote]] = [[] for _ in contests]
    waiting = list(_ballots(judge, contests))
    for index, size in enumerate(sizes):
        if size < 2:
            yield index, Listing((), usage_of(()), {}, judge.model)
    async for ballot, verdict, fields in cast(judge, waiting, "listwise", dict(enumerate(sizes))):
        mine, size = votes[ballot.item], sizes[ballot.item]
        order = None
        if verdict is not None and verdict.ranking is not None:
            order = tuple((LETTERS.index(letter) + ballot.rotation) % size for letter in verdict.ranking)
        mine.append(ListVote(rotation=ballot.rotation, ranking=order, **fields))
        if len(mine) == size * judge.rule.votes:
            yield ballot.item, _listing(mine, judge.model)


def _listing(votes: Sequence[ListVote], model: str) -> Listing:
    ordered = tuple(sorted(votes, key=lambda vote: (vote.rotation, vote.number)))
    failures = Counter(vote.cause for vote in ordered if vote.cause is not None)
    return Listing(ordered, usage_of(ordered), dict(failures), model)


def ranking_of(contest: Contest, listing: Listing) -> Ranking:
    """The ranking by Bradley-Terry strengths of the shares in which one stands before another."""
    model = listing.model if listing.votes else None
    return ranked(contest, "listwise", listing.shares(), len(listing.votes), listing.usage, listing.failures, model)


async def rank_listwise(judge: PairwiseJudge, groups: Sequence[Group]) -> list[Ranking]:
    """The ranking of every group, in order; see :func:`listings` and :func:`contests_of` for what is raised."""
    contests = contests_of(groups)
    found = {index: listing async for index, listing in listings(judge, contests)}
    return [ranking_of(contest, found[index]) for index, contest in enumerate(contests)]


def _ballots(judge: PairwiseJudge, contests: Sequence[Contest]) -> Iterator[Ballot]:
    template = judge.template_for("listwise")

    def prompts() -> Iterator[tuple[int, int, list[dict[str, str]]]]:
        for index, contest in enumerate(contests):
            texts = [contest.group.responses[place] for place in contest.places]
            conversation = conversation_of(contest.group.question, contest.group.id)
            for rotation in range(len(texts) if len(texts) > 1 else 0):
                shown = [*texts[rotation:], *texts[:rotation]]
                yield index, rotation, render_list(conversation, shown, template)

    return ballots(judge, prompts())
