"""RewardBench 2 (arXiv 2506.01937): best of four in five subsets, and Ties, where several answers are right.

The official protocol shows all four answers at once, or rates each alone; a judge of pairs can do neither. What is here
is stricter, and its figures are not comparable with the leaderboard's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    by_comparison,
    mean_of,
)
from pipelines.benchmarks.rows import Row, read
from pipelines.data.schema import DataError, Message, PreferencePair, text_field

SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
TIES = "Ties"


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, lists ``chosen`` and ``rejected``, and ``subset``: every right answer against every other.

    In the five subsets that is one answer against three; in Ties each right answer against each wrong one.
    """
    comparisons = []
    for row in read(
        "reward_bench_2", location, [("prompt", "chosen", "rejected", "subset")], "allenai/reward-bench-2", ["test"]
    ):
        subset = text_field(row.fields, "subset", row.place)
        if subset not in (*SUBSETS, TIES):
            raise DataError(f"{row.place}, field 'subset': {subset!r} is none of {', '.join((*SUBSETS, TIES))}")
        item = row.identifier("id")
        prompt = (Message("user", text_field(row.fields, "prompt", row.place)),)
        chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
        for first, better in enumerate(chosen):
            for second, worse in enumerate(rejected):
                pair = PreferencePair(
                    f"{subset}/{item}/{first}-{second}", "reward_bench_2", subset, prompt, better, worse
                )
                comparisons.append(Comparison(pair, subset, item, subset, group=item))
    return comparisons


def _texts(row: Row, field: str) -> list[str]:
    texts = row.fields[field]
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{row.place}, field {field!r}: must be a list of texts")
    return [text_field({field: text}, field, row.place) for text in texts]


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are subsets; a unit is a prompt, right if every comparison of a right with a wrong answer is.

    With both orders it counts the probability of that under a random order for each comparison, as in RMB.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    groups: dict[tuple[str, str], list[Score]] = {}
    for row in rows:
        if row.subset not in (*SUBSETS, TIES):
            raise DataError(f"RewardBench 2 has no subset {row.subset!r}")
        groups.setdefault((row.subset, row.group or row.item), []).append(row)
    for (subset, group), members in groups.items():
        shares = [sum(row.score == 1 for row in each) / len(each) for each in by_comparison(members)]
        found.setdefault(subset, {})[group] = np.array([[math.prod(shares), 1.0]])
    return found


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``subsets``, their plain mean ``average``, and ``ties_pairwise``.

    The official Ties score, and so the official average of six, needs ratings of single answers. A judge of pairs has
    none: ``ties_pairwise`` is the share of Ties prompts whose right answers all beat all wrong ones, and stays out of
    ``average``.
    """
    subsets = {name: np.asarray(means[name])[..., 0] for name in SUBSETS if name in means}
    ties = np.asarray(means[TIES])[..., 0] if TIES in means else None
    return {"subsets": subsets, "average": mean_of(subsets.values()), "ties_pairwise": ties}


BENCHMARK = Benchmark(
    "reward_bench_2",
    "RewardBench 2",
    load,
    observe,
    combine,
    items=1865,
    not_comparable="not comparable with the leaderboard: judged in pairs, not four at once, and Ties not by ratings",
)
