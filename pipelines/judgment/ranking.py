"""Rankings of the responses to each of many questions: all comparisons of a round go to the judge together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipelines.data.schema import DataError, PreferencePair, conversation_of, text_field
from pipelines.judgment.bradley_terry import bradley_terry
from pipelines.judgment.decision import Decision
from pipelines.judgment.judging import asked
from pipelines.judgment.tournaments import Method, Pair, most_calls, next_round, order

RankMethod = Method | Literal["listwise"]
"""A tournament of pairs, or all responses in one prompt."""
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
    """Comparisons, each asked in all its orders and votes; of ``listwise``, prompts."""
    usage: dict[str, int]
    failures: dict[str, int]
    """Votes that could not be read, by cause."""
    method: RankMethod
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


@dataclass(frozen=True, slots=True)
class Contest:
    """A group whose contestants are its different responses."""

    group: Group
    places: tuple[int, ...]
    """Position in the group of each contestant."""
    contestant_of: tuple[int, ...]
    """Contestant of each position."""


def contest_of(group: Group) -> Contest:
    """A group, checked.

    Raises:
        DataError: it has fewer than two responses, or a text that cannot be judged.

    """
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
    return Contest(group, tuple(places.values()), tuple(names.index(text.strip()) for text in group.responses))


@dataclass(slots=True)
class _Tournament:
    """One contest while it is played."""

    contest: Contest
    decisions: dict[Pair, Decision] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.contest.places)

    def results(self) -> dict[Pair, float]:
        return {pair: decision.score for pair, decision in self.decisions.items()}

    def pair(self, pair: Pair) -> PreferencePair:
        group = self.contest.group
        first, second = (group.responses[self.contest.places[contestant]] for contestant in pair)
        return asked(group.question, first, second, group.id)


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
    tournaments = [_Tournament(contest_of(group)) for group in groups]
    total = sum(most_calls(method, item.size, rounds) for item in tournaments)
    done = 0
    while True:
        waiting = [
            (item, pair) for item in tournaments for pair in next_round(method, item.size, item.results(), rounds)
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
    usage: Counter[str] = Counter(prompt_tokens=0, completion_tokens=0, total_tokens=0)
    failures: Counter[str] = Counter()
    for decision in item.decisions.values():
        usage.update(decision.usage)
        failures.update(decision.failures)
    read = {pair: decision.score for pair, decision in item.decisions.items() if decision.read}
    model = next((decision.model for decision in item.decisions.values()), None)
    calls, results = len(item.decisions), item.results()
    return ranked(item.contest, method, read, calls, usage, failures, model, results)


def ranked(
    contest: Contest,
    method: RankMethod,
    read: Mapping[Pair, float],
    calls: int,
    usage: Mapping[str, int],
    failures: Mapping[str, int],
    model: str | None,
    results: Mapping[Pair, float] | None = None,
) -> Ranking:
    """The ranking of a contest from the scores that could be read; of a knockout, ``results`` say who came how far."""
    n, of = len(contest.places), contest.contestant_of
    strength, intervals = bradley_terry(n, dict(read))
    rounded = [round(float(value), 9) for value in strength]
    best = order("all_pairs" if method == "listwise" else method, n, results or {}, rounded)
    rank = {contestant: place for place, contestant in enumerate(best)}
    shares: dict[Pair, float] = {**read, **{(j, i): 1 - score for (i, j), score in read.items()}}
    return Ranking(
        ranking=tuple(sorted(range(len(of)), key=lambda place: (rank[of[place]], place))),
        scores=tuple(float(strength[contestant]) for contestant in of),
        intervals=tuple((float(intervals[contestant][0]), float(intervals[contestant][1])) for contestant in of),
        wins=tuple(tuple(shares.get((first, second)) for second in of) for first in of),
        calls=calls,
        usage=dict(usage),
        failures=dict(failures),
        method=method,
        model=model,
    )
