"""Rankings of the responses to each of many questions: all comparisons of a round go to the judge together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.data.schema import DataError, PreferencePair, conversation_of, text_field
from pipelines.judgment.bradley_terry import bradley_terry
from pipelines.judgment.decision import Decision
from pipelines.judgment.judging import asked
from pipelines.judgment.tournaments import Method, Pair, most_calls, next_round, order

Decide = Callable[[Sequence[PreferencePair]], AsyncIterator[tuple[int, Decision]]]


@dataclass(frozen=True, slots=True)
class Group:
    """A question and the responses to rank."""

    id: str
    question: Any
    """A text, or messages ``{role, content}``."""
    responses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The responses of one group in order. Positions count from 0; equal responses are compared as one."""

    ranking: tuple[int, ...]
    """Positions of the responses, best first."""
    scores: tuple[float, ...]
    """Bradley-Terry strength of each response, in log-odds; see :func:`bradley_terry`."""
    intervals: tuple[tuple[float, float], ...]
    """95%, of each score."""
    wins: tuple[tuple[float | None, ...], ...]
    """``wins[i][j]``: the score of i against j; None where they were not compared, or nothing could be read."""
    calls: int
    """Comparisons; each is asked in all its orders and votes."""
    usage: dict[str, int]
    failures: dict[str, int]
    """Votes that could not be read, by cause."""
    method: Method
    model: str | None
    """None where no comparison was needed."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`of_json` reads back."""
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Ranking:
        """The ranking that :meth:`as_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        flat = {name: tuple(row[name]) for name in ("ranking", "scores")}
        nested = {name: tuple(map(tuple, row[name])) for name in ("intervals", "wins")}
        return cls(**{**row, **flat, **nested})


@dataclass(slots=True)
class _Tournament:
    """One group while it is played. Contestants are its different responses."""

    group: Group
    places: list[int]
    """Position in the group of each contestant."""
    contestant_of: list[int]
    """Contestant of each position."""
    decisions: dict[Pair, Decision] = field(default_factory=dict)

    def results(self) -> dict[Pair, float]:
        return {pair: decision.score for pair, decision in self.decisions.items()}

    def pair(self, pair: Pair) -> PreferencePair:
        first, second = (self.group.responses[self.places[contestant]] for contestant in pair)
        return asked(self.group.question, first, second, self.group.id)


def _tournament(group: Group) -> _Tournament:
    if len(group.responses) < 2:
        raise DataError(f"{group.id}: {len(group.responses)} responses, and ranking needs at least 2")
    conversation_of(group.question, group.id)
    places: dict[str, int] = {}
    for place, response in enumerate(group.responses):
        text = text_field({"response": response}, "response", f"{group.id}, response {place}").strip()
        if not text:
            raise DataError(f"{group.id}, response {place}: the response is empty: leave it out")
        places.setdefault(text, place)
    names = list(places)
    return _Tournament(group, list(places.values()), [names.index(text.strip()) for text in group.responses])


async def rank_groups(
    decide: Decide,
    groups: Sequence[Group],
    method: Method,
    rounds: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Ranking]:
    """The ranking of every group, in order. ``progress`` is told of comparisons: those done, and at most how many.

    Raises:
        DataError: a group has fewer than two responses, or a text that cannot be judged.

    """
    tournaments = [_tournament(group) for group in groups]
    total = sum(most_calls(method, len(item.places), rounds) for item in tournaments)
    done = 0
    while True:
        waiting = [
            (item, pair)
            for item in tournaments
            for pair in next_round(method, len(item.places), item.results(), rounds)
        ]
        if not waiting:
            return [_ranking(item, method) for item in tournaments]
        async for index, decision in decide([item.pair(pair) for item, pair in waiting]):
            item, pair = waiting[index]
            item.decisions[pair] = decision
            done += 1
            if progress is not None:
                progress(done, total)


def _ranking(item: _Tournament, method: Method) -> Ranking:
    n, of = len(item.places), item.contestant_of
    read = {pair: decision.score for pair, decision in item.decisions.items() if decision.read}
    strength, intervals = bradley_terry(n, read)
    best = order(method, n, item.results(), [round(float(value), 9) for value in strength])
    rank = {contestant: place for place, contestant in enumerate(best)}
    shares: dict[Pair, float] = {**read, **{(j, i): 1 - score for (i, j), score in read.items()}}
    usage: Counter[str] = Counter(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    failures: Counter[str] = Counter()
    for decision in item.decisions.values():
        usage.update(decision.usage)
        failures.update(decision.failures)
    return Ranking(
        ranking=tuple(sorted(range(len(of)), key=lambda place: (rank[of[place]], place))),
        scores=tuple(float(strength[contestant]) for contestant in of),
        intervals=tuple((float(intervals[contestant][0]), float(intervals[contestant][1])) for contestant in of),
        wins=tuple(tuple(shares.get((first, second)) for second in of) for first in of),
        calls=len(item.decisions),
        usage=dict(usage),
        failures=dict(failures),
        method=method,
        model=next((decision.model for decision in item.decisions.values()), None),
    )
