"""The order of at most four responses that one prompt shows: the mode `listwise`, averaged over rotated positions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from actors.messages import Verdict
from actors.verifier.trace import LETTERS
from pipelines.data.prompts import PromptTemplate, render_list
from pipelines.data.schema import DataError, conversation_of
from pipelines.judgment.judging import JudgingRule, Mode, Showing, in_order
from pipelines.judgment.ranking import Contest, Group, Ranking, contest_of, ranked
from pipelines.judgment.votes import Record, Vote, failures_of, usage_of

MOST = len(LETTERS)
"""Responses that one prompt shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVote(Vote):
    """One order of all responses, or why there is none."""

    rotation: int
    """By how many places the responses were moved: the response shown first."""
    ranking: tuple[int, ...] | None
    """Different responses, in the order given, best first."""


@dataclass(frozen=True, slots=True)
class Listing(Record):
    """All orders that a judge gave for the responses of one group."""

    votes: tuple[ListVote, ...]
    usage: Mapping[str, int]
    failures: Mapping[str, int]
    """Votes that could not be read, by cause."""
    model: str

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Listing:
        """The listing that ``as_json`` wrote.

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


class Listwise(Mode[Contest, ListVote, Listing]):
    """Asks about contests: each of n contestants stands once in each of n positions. One alone is not asked about."""

    judged = "listwise"

    def name(self, item: Contest) -> str:
        """The group's id."""
        return item.group.id

    def showings(self, item: Contest, rule: JudgingRule, template: PromptTemplate) -> Iterator[Showing]:
        """One for each rotation."""
        texts = [item.group.responses[place] for place in item.places]
        conversation = conversation_of(item.group.question, item.group.id)
        for rotation in range(len(texts) if len(texts) > 1 else 0):
            shown = [*texts[rotation:], *texts[:rotation]]
            yield Showing(render_list(conversation, shown, template), rotation, len(texts))

    def vote(self, showing: Showing, verdict: Verdict | None, written: Mapping[str, Any]) -> ListVote:
        """The judge's letters as the contestants they stand for."""
        order = None
        if verdict is not None and verdict.ranking is not None:
            places = [LETTERS.index(letter) for letter in verdict.ranking]
            order = tuple((place + showing.placed) % showing.responses for place in places)
        return ListVote(rotation=showing.placed, ranking=order, **written)

    def decide(self, votes: Sequence[ListVote], model: str, weights: str) -> Listing:
        """All of them."""
        return Listing(tuple(votes), usage_of(votes), failures_of(votes), model)


LISTWISE = Listwise()


def ranking_of(contest: Contest, listing: Listing) -> Ranking:
    """The ranking by Bradley-Terry strengths of the shares in which one stands before another."""
    model = listing.model if listing.votes else None
    return ranked(contest, "listwise", listing.shares(), len(listing.votes), listing.usage, listing.failures, model)


async def rank_listwise(
    ask: Callable[[Sequence[Contest]], AsyncIterator[tuple[int, Listing]]],
    groups: Sequence[Group],
    progress: Callable[[int], None] | None = None,
) -> list[Ranking]:
    """The ranking of every group, in order; ``ask`` is asked for all listings at once.

    Raises:
        DataError: see :func:`contests_of`.

    """
    contests = contests_of(groups)
    found = await in_order(ask(contests), progress)
    return [ranking_of(contest, listing) for contest, listing in zip(contests, found, strict=True)]
