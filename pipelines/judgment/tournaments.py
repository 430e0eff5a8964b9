"""Which responses are compared next: tournaments as pure functions of the results so far.

A pair ``(i, j)`` has ``i < j``; its result is the score of ``i`` against ``j``, 0.5 for a tie. A schedule is played in
rounds: all pairs of a round are independent, and :func:`next_round` names those that have no result yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, get_args

Method = Literal["all_pairs", "circular", "knockout", "swiss"]
METHODS: tuple[Method, ...] = get_args(Method)
Pair = tuple[int, int]
Results = Mapping[Pair, float]


def next_round(method: Method, n: int, results: Results, rounds: int = 0) -> list[Pair]:
    """Pairs of the first round that has no result for some of them; empty when the tournament is over.

    ``all_pairs``: everyone meets everyone, n(n-1)/2 pairs. ``circular``: each meets the next ``rounds`` ones around a
    circle (0: 2). ``knockout``: winners go on, n-1 pairs; a tie goes to the earlier response. ``swiss``: in each of
    ``rounds`` rounds (0: log2 n rounded up, and one more) those of like points meet, no two of them twice.

    Raises:
        ValueError: an unknown method.

    """
    if method == "all_pairs":
        rounds_of = [list(combinations(range(n), 2))]
    elif method == "circular":
        rounds_of = [_circle(n, rounds or 2)]
    elif method == "knockout":
        rounds_of = _knockout(n, results)[0]
    elif method == "swiss":
        rounds_of = _swiss(n, results, rounds or math.ceil(math.log2(max(n, 2))) + 1)
    else:
        raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}")
    missing = ([pair for pair in pairs if pair not in results] for pairs in rounds_of)
    return next((pairs for pairs in missing if pairs), [])


def most_calls(method: Method, n: int, rounds: int = 0) -> int:
    """Pairs of a whole tournament; of ``swiss``, at most so many."""
    if method == "swiss":
        swiss = (rounds or math.ceil(math.log2(max(n, 2))) + 1) * (n // 2)
        return min(swiss, n * (n - 1) // 2)
    return n - 1 if method == "knockout" else len(next_round(method, n, {}, rounds))


def order(method: Method, n: int, results: Results, scores: Sequence[float]) -> list[int]:
    """Responses from best to worst: by score, earlier ones first among equals; of a knockout, by how far they came."""
    lost_in = _knockout(n, results)[1] if method == "knockout" else {}
    return sorted(range(n), key=lambda i: (-lost_in.get(i, n), -scores[i], i))


def _circle(n: int, reach: int) -> list[Pair]:
    pairs = {_pair(i, (i + step) % n) for step in range(1, min(reach, n - 1) + 1) for i in range(n)}
    return sorted(pairs)


def _knockout(n: int, results: Results) -> tuple[list[list[Pair]], dict[int, int]]:
    """Rounds as far as results decide them, and in which round each loser lost."""
    alive, rounds = list(range(n)), []
    lost_in: dict[int, int] = {}
    while len(alive) > 1:
        pairs = [_pair(*alive[at : at + 2]) for at in range(0, len(alive) - 1, 2)]
        rounds.append(pairs)
        if any(pair not in results for pair in pairs):
            break
        # Who had no opponent meets one first in the next round.
        alive = alive[len(pairs) * 2 :]
        for i, j in pairs:
            winner, loser = (i, j) if results[i, j] >= 0.5 else (j, i)
            lost_in[loser] = len(rounds)
            alive.append(winner)
    return rounds, lost_in


def _swiss(n: int, results: Results, count: int) -> list[list[Pair]]:
    points = [0.0] * n
    met: set[Pair] = set()
    rested: set[int] = set()
    rounds: list[list[Pair]] = []
    for _ in range(count):
        if len(met) == n * (n - 1) // 2:
            break
        standing = sorted(range(n), key=lambda i: (-points[i], i))
        if n % 2:
            rests = next((i for i in reversed(standing) if i not in rested), standing[-1])
            rested.add(rests)
            standing.remove(rests)
            points[rests] += 0.5
        pairs = []
        while standing:
            first = standing.pop(0)
            other = next((i for i in standing if _pair(first, i) not in met), None)
            if other is not None:
                standing.remove(other)
                pairs.append(_pair(first, other))
        rounds.append(pairs)
        met.update(pairs)
        if any(pair not in results for pair in pairs):
            break
        for i, j in pairs:
            points[i] += results[i, j]
            points[j] += 1 - results[i, j]
    return rounds


def _pair(i: int, j: int) -> Pair:
    return (i, j) if i < j else (j, i)
