"""How many comparisons a ranking needs: each tournament on the same judgments of a trained judge."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.speed.demo_judge import demo_judge

SIZES, GROUPS, WITHIN = (4, 8, 16), 200, 0.01


@dataclass(frozen=True, slots=True)
class Scored:
    """Responses of the built-in family to one question, with the weights of the criteria they truly meet."""

    question: str
    responses: tuple[str, ...]
    scores: tuple[int, ...]


def groups(count: int, n: int, seed: int = 0) -> list[Scored]:
    """Chat items with ``n`` different responses each."""
    from pipelines.data.tiny_tasks import chat_item, draw_response, score

    found = []
    for number in range(count):
        rng = random.Random(f"{seed}/rank/{number}")
        item = chat_item(rng, str(number))
        responses: dict[str, int] = {}
        while len(responses) < n:
            text = draw_response(rng, item.metadata["criteria"])
            responses[text] = score(text, item.metadata["true_order"])
        texts = tuple(responses)
        found.append(Scored(item.prompt[0].content, texts, tuple(responses[text] for text in texts)))
    return found


def played(method: Any, n: int, rounds: int, scores: Mapping[tuple[int, int], float]) -> tuple[list[int], int]:
    """The order that a tournament comes to, and its comparisons; ``scores`` has the judge's of every pair."""
    from pipelines.judgment.bradley_terry import bradley_terry
    from pipelines.judgment.tournaments import next_round, order

    results: dict[tuple[int, int], float] = {}
    while pairs := next_round(method, n, results, rounds):
        results.update({pair: scores[pair] for pair in pairs})
    strength, _ = bradley_terry(n, results)
    return order(method, n, results, [round(float(value), 9) for value in strength]), len(results)


def first_is_best(best_first: Sequence[int], scores: Sequence[int]) -> bool:
    """Whether the response that an order puts first has the highest true score: what best-of-n would take."""
    return scores[best_first[0]] == max(scores)


def accuracy(best_first: Sequence[int], scores: Sequence[int]) -> float:
    """Share of the pairs of different true scores that an order has the right way round."""
    rank = {place: position for position, place in enumerate(best_first)}
    pairs = [(i, j) for i, j in combinations(range(len(best_first)), 2) if scores[i] != scores[j]]
    return fmean((rank[i] < rank[j]) == (scores[i] > scores[j]) for i, j in pairs)


def rank_calls(run: Path) -> dict[str, float]:
    """200 questions with 16 responses, of which the first 4 and 8 are groups of their own. The judge decides all pairs
    once, in both orders; every tournament is then played on these decisions. Accuracy is the share of questions whose
    first response is truly a best one. ``rank_calls``: the fewest comparisons of 16 responses at an accuracy within a
    point of that of all 120. Beside it, the share of pairs in the right order.
    """
    from pipelines.judgment.judge import Judge

    scored = groups(GROUPS, max(SIZES))
    with Judge(demo_judge(run).model) as judge:
        rankings = judge.rank_all([(one.question, one.responses) for one in scored])
    found: dict[str, float] = {}
    for n in SIZES:
        decided = [
            {(i, j): 0.5 if (score := ranking.wins[i][j]) is None else score for i, j in combinations(range(n), 2)}
            for ranking in rankings
        ]
        found |= figures(n, decided, [one.scores[:n] for one in scored])
    most = f"of_{max(SIZES)}"
    least = found[f"rank_all_pairs_{most}_accuracy"] - WITHIN
    names = [name.removesuffix("_accuracy") for name in found if name.endswith(f"{most}_accuracy")]
    return {"rank_calls": min(found[f"{name}_calls"] for name in names if found[f"{name}_accuracy"] >= least), **found}


def figures(
    n: int, decided: Sequence[Mapping[tuple[int, int], float]], truth: Sequence[Sequence[int]]
) -> dict[str, float]:
    """What each tournament of ``n`` comes to on groups of which all pairs are decided: comparisons and accuracies."""
    found: dict[str, float] = {}
    for method, rounds in _tournaments(n):
        results = [played(method, n, rounds, scores) for scores in decided]
        # A few small groups have responses of one score only, and so no right order.
        differ = [(order, true) for (order, _), true in zip(results, truth, strict=True) if len(set(true)) > 1]
        name = f"rank_{method}{f'_{rounds}' if rounds else ''}_of_{n}"
        found |= {
            f"{name}_calls": fmean(calls for _, calls in results),
            f"{name}_accuracy": fmean(
                first_is_best(order, true) for (order, _), true in zip(results, truth, strict=True)
            ),
            f"{name}_order": fmean(accuracy(*each) for each in differ),
        }
    return found


def _tournaments(n: int) -> list[tuple[Any, int]]:
    circles = [("circular", rounds) for rounds in (1, 2, 3, 4) if 2 * rounds < n - 1]
    return [("all_pairs", 0), *circles, ("knockout", 0), *[("swiss", rounds) for rounds in (3, 4, 5) if rounds < n - 1]]
