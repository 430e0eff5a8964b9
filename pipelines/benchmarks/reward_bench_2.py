"""RewardBench 2 (arXiv 2506.01937): best of four in five subsets, and Ties, where several answers are right.

The official protocol, of allenai/reward-bench's ``run_generative_v2.py``, shows a generative judge all four answers at
once, the right one at a random place; Ties is scored from ratings of each answer alone. A judge that knows pairs only
can do neither: for it every right answer meets every wrong one, which is stricter, and no figure for the leaderboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

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

UNREAD = 0.25
"""What the official rule gives a judgment of four answers that cannot be read."""
SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
TIES = "Ties"
_FOUR = 4
_KINDS = ("ref", "tied")
"""Of Ties: prompts with one right answer, and the same asked so that there are several."""
_STRATA = {kind: f"{TIES}/{kind}" for kind in _KINDS}
_BOTH = f"{TIES}/both"
_WEIGHTS = {"accuracy_tied": 0.3, "accuracy_ref": 0.3, "preferred": 0.2, "preferred_hard": 0.2, "margin": 0.01}


def _rows(location: str | None) -> Iterator[tuple[Row, str, str, tuple[Message, ...], list[str], list[str]]]:
    """Each row with its subset, item, prompt, right and wrong answers."""
    for row in read(
        "reward_bench_2", location, [("prompt", "chosen", "rejected", "subset")], "allenai/reward-bench-2", ["test"]
    ):
        subset = text_field(row.fields, "subset", row.place)
        if subset not in (*SUBSETS, TIES):
            raise DataError(f"{row.place}, field 'subset': {subset!r} is none of {', '.join((*SUBSETS, TIES))}")
        prompt = (Message("user", text_field(row.fields, "prompt", row.place)),)
        yield row, subset, row.identifier("id"), prompt, _texts(row, "chosen"), _texts(row, "rejected")


def load_official(location: str | None) -> list[Comparison]:
    """In the five subsets one list of four answers a row; in Ties a rating of each answer.

    Raises:
        DataError: a row has fewer than three wrong answers, or an id of Ties is not ``ref:number`` or ``tied:number``.

    """
    comparisons = []
    for row, subset, item, prompt, chosen, rejected in _rows(location):
        if subset == TIES:
            kind, _, number = item.partition(":")
            if kind not in _KINDS or not number.isdecimal():
                raise DataError(f"{row.place}, field 'id': {item!r} of Ties must be ref:number or tied:number")
            for place, answer in enumerate([*chosen, *rejected]):
                metadata = {"right": place < len(chosen)}
                pair = PreferencePair(f"{TIES}/{item}/{place}", "reward_bench_2", TIES, prompt, answer, "", metadata)
                comparisons.append(Comparison(pair, TIES, item, TIES, mode="pointwise"))
            continue
        if len(rejected) < _FOUR - 1:
            raise DataError(f"{row.place}, field 'rejected': {len(rejected)} answers, and four are shown at once")
        others = {"others": rejected[1 : _FOUR - 1]}
        pair = PreferencePair(f"{subset}/{item}", "reward_bench_2", subset, prompt, chosen[0], rejected[0], others)
        comparisons.append(Comparison(pair, subset, item, subset, mode="listwise"))
    return comparisons


def load(location: str | None) -> list[Comparison]:
    """Rows with ``prompt``, lists ``chosen`` and ``rejected``, and ``subset``: every right answer against every other.

    In the five subsets that is one answer against three; in Ties each right answer against each wrong one.
    """
    comparisons = []
    for _, subset, item, prompt, chosen, rejected in _rows(location):
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
    """Strata are subsets, units prompts. Rows of lists and of ratings are of the official protocol.

    Of pairs a prompt is right if every comparison of a right with a wrong answer is. With both orders it counts the
    probability of that under a random order for each comparison, as in RMB.
    """
    for row in rows:
        if row.subset not in (*SUBSETS, TIES):
            raise DataError(f"RewardBench 2 has no subset {row.subset!r}")
    found: dict[str, dict[str, np.ndarray]] = {}
    groups: dict[tuple[str, str], list[Score]] = {}
    ratings: dict[str, list[Score]] = {}
    for row in rows:
        if row.mode == "pairwise":
            groups.setdefault((row.subset, row.group or row.item), []).append(row)
        elif row.subset == TIES:
            ratings.setdefault(row.item, []).append(row)
        else:
            found.setdefault(row.subset, {})[row.item] = np.array([[row.score, 1.0]])
    for (subset, group), members in groups.items():
        shares = [sum(row.score == 1 for row in each) / len(each) for each in by_comparison(members)]
        found.setdefault(subset, {})[group] = np.array([[math.prod(shares), 1.0]])
    return {**found, **_ties(ratings)}


def _ties(ratings: Mapping[str, Sequence[Score]]) -> dict[str, dict[str, np.ndarray]]:
    """Strata of Ties: prompts of one right answer, of several, and those that have both.

    The last one's quantities: whether right answers lie closer together than the worst of them lies above the best
    wrong one; whether also closer than in the prompt of one right answer; by how much, as the hyperbolic tangent.
    """
    gaps: dict[str, dict[str, float]] = {kind: {} for kind in _KINDS}
    spreads: dict[str, float] = {}
    for item, rows in ratings.items():
        kind, _, number = item.partition(":")
        right = [row.score for row in rows if row.order == "chosen_first"]
        wrong = [row.score for row in rows if row.order != "chosen_first"]
        if kind not in _KINDS or not right or not wrong:
            raise DataError(
                f"RewardBench 2, Ties, item {item!r}: needs ratings of a right answer (order chosen_first) and of a "
                "wrong one (chosen_second), and an item ref:number or tied:number"
            )
        gaps[kind][number] = min(right) - max(wrong)
        if kind == "tied":
            spreads[number] = max(right) - min(right)
    found = {
        _STRATA[kind]: {number: np.array([[float(gap > 0), 1.0]]) for number, gap in mine.items()}
        for kind, mine in gaps.items()
        if mine
    }
    both = sorted(gaps["ref"].keys() & gaps["tied"].keys())
    if both:
        found[_BOTH] = {number: _margins(gaps["ref"][number], gaps["tied"][number], spreads[number]) for number in both}
    return found


def _margins(ref: float, tied: float, spread: float) -> np.ndarray:
    """Sums and counts of the three quantities, ``[3, 2]``; 0 over 0 counts as no margin, as in the official script."""
    least = min(ref, tied)
    ratio = least / spread if spread else math.copysign(math.inf, least) if least else math.nan
    margin = 0.0 if math.isnan(ratio) else math.tanh(ratio - 1)
    return np.array([[float(tied > spread), 1.0], [float(least > spread), 1.0], [margin, 1.0]])


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``subsets`` and their plain mean ``average``; of pairs, ``ties_pairwise`` beside it.

    Officially Ties is a subset like the others, 0.3 x the accuracy of either kind of prompt + 0.2 x either share of
    margins + 0.01 x the margin itself; ``ties`` has its parts. A judge of pairs has no ratings: ``ties_pairwise`` is
    the share of Ties prompts whose right answers all beat all wrong ones, and stays out of ``average``.
    """
    subsets = {name: np.asarray(means[name])[..., 0] for name in SUBSETS if name in means}
    ties = np.asarray(means[TIES])[..., 0] if TIES in means else None
    if not any(name in means for name in (*_STRATA.values(), _BOTH)):
        return {"subsets": subsets, "average": mean_of(subsets.values()), "ties_pairwise": ties}
    parts = {f"accuracy_{kind}": np.asarray(means[name])[..., 0] for kind, name in _STRATA.items() if name in means}
    if _BOTH in means:
        margins = np.asarray(means[_BOTH])
        parts |= {name: margins[..., place] for place, name in enumerate(("preferred", "preferred_hard", "margin"))}
    if len(parts) == len(_WEIGHTS):
        weighed = [weight * parts[name] for name, weight in _WEIGHTS.items()]
        subsets[TIES] = sum(weighed[1:], start=weighed[0])
    return {"subsets": subsets, "average": mean_of(subsets.values()), "ties": parts}


BENCHMARK = Benchmark(
    "reward_bench_2",
    "RewardBench 2",
    load,
    observe,
    combine,
    items=1865,
    official=Benchmark(
        *("reward_bench_2", "RewardBench 2", load_official, observe, combine),
        unread_score=UNREAD,
        items=1865,
    ),
    not_comparable="not comparable with the leaderboard: judged in pairs, not four at once, and Ties not by ratings",
)
