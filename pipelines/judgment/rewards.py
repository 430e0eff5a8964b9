"""Rewards of the responses to one question: a tournament within a budget, every response's mean score against others.

A group has the same rewards whoever asks: its tournament is played over its different responses in the order of their
hashes, and a vote's randomness is a function of its prompt. So neither the order in which responses came, nor what else
is asked meanwhile, moves a reward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pipelines.data.schema import DataError, conversation_of, text_field
from pipelines.judgment.ranking import Decide, Group, Ranking, rank_groups
from pipelines.judgment.tournaments import Method
from pipelines.judgment.votes import hash_of

ENGINE_ERROR = "engine_error"
"""Cause of a vote that an engine failed on: asked again, it may be answered."""
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Rewards:
    """What the responses of one group are worth."""

    rewards: tuple[float | None, ...]
    """In [0, 1], by position: the mean of a response's scores against those it met; equal responses share theirs. An
    empty response loses to every other one without being judged: 0. None: nothing about it could be read, see
    ``failures``."""
    calls: int
    """Comparisons; each is asked in all its orders and votes."""
    usage: Mapping[str, int]
    failures: Mapping[str, int]
    """Votes that could not be read, by cause."""

    @property
    def failed(self) -> bool:
        """Whether an engine failed, so that the group as a whole has no rewards and may be asked for again."""
        return ENGINE_ERROR in self.failures

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`of_json` reads back."""
        return asdict(self)

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Rewards:
        """The rewards that :meth:`as_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.

        """
        return cls(**{**row, "rewards": tuple(row["rewards"])})


def schedule(n: int, budget: int = 0) -> tuple[Method, int]:
    """Tournament of ``n`` responses in at most ``budget`` comparisons (0: two a response), and its rounds.

    Everyone meets everyone where that fits; otherwise each meets as many others around a circle as the budget holds.
    A circle takes ``n`` comparisons at least: a smaller budget is exceeded, so that every response meets two others.
    """
    most = budget or _ROUNDS * n
    return ("all_pairs", 0) if n * (n - 1) // 2 <= most else ("circular", max(1, most // n))


async def reward_groups(decide: Decide, groups: Sequence[Group], budget: int = 0) -> list[Rewards]:
    """Rewards of every group, in order; ``budget`` comparisons for each, see :func:`schedule`.

    Raises:
        DataError: a group has no responses, its question cannot be judged, or a response is no valid text.

    """
    fields = [_contestants(group) for group in groups]
    by_schedule: dict[tuple[Method, int], list[int]] = {}
    for index, texts in enumerate(fields):
        if len(texts) > 1:
            by_schedule.setdefault(schedule(len(texts), budget), []).append(index)

    async def play(plan: tuple[Method, int], members: list[int]) -> list[Ranking]:
        played = [Group(groups[index].id, groups[index].question, fields[index]) for index in members]
        return await rank_groups(decide, played, *plan)

    tournaments = await asyncio.gather(*(play(plan, members) for plan, members in by_schedule.items()))
    rankings = {
        index: ranking
        for members, played in zip(by_schedule.values(), tournaments, strict=True)
        for index, ranking in zip(members, played, strict=True)
    }
    return [_rewards(group, fields[index], rankings.get(index)) for index, group in enumerate(groups)]


def _contestants(group: Group) -> tuple[str, ...]:
    if not group.responses:
        raise DataError(f"{group.id}: no responses, and a reward needs at least one")
    conversation_of(group.question, group.id)
    for place, response in enumerate(group.responses):
        text_field({"response": response}, "response", f"{group.id}, response {place}")
    return contestants(group.responses)


def contestants(responses: Sequence[str]) -> tuple[str, ...]:
    """The different responses that are not empty, in the order of their hashes."""
    texts = {response.strip() for response in responses}
    return tuple(sorted(texts - {""}, key=lambda text: (hash_of(text), text)))


def _rewards(group: Group, field: tuple[str, ...], ranking: Ranking | None) -> Rewards:
    texts = [response.strip() for response in group.responses]
    found: dict[str, float | None] = {"": 0.0 if field else 0.5}
    if ranking is None:
        found |= dict.fromkeys(field, 1.0 if "" in texts else 0.5)
        return Rewards(tuple(found[text] for text in texts), 0, _NOTHING, {})
    for text, row in zip(field, ranking.wins, strict=True):
        met = [score for score in row if score is not None]
        found[text] = fmean(met) if met else None
    if ENGINE_ERROR in ranking.failures:
        # Of the others it is not known what they would have been worth with all comparisons.
        found = dict.fromkeys(found)
    return Rewards(tuple(found[text] for text in texts), ranking.calls, ranking.usage, ranking.failures)


_NOTHING = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
