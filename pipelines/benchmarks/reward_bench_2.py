"""RewardBench 2 (arXiv 2506.01937): best of four in five subsets, and Ties, where several answers are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
        item = str(row.fields.get("id", row.number))
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


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int], as_published: bool) -> Figures:
    """``subsets``, their plain mean ``average``, and ``ties_pairwise``.

    The official Ties score, and so the official average of six, needs ratings (:func:`ties_score`). A judge of pairs
    has none: ``ties_pairwise`` is the share of Ties prompts whose right answers all beat all wrong ones, and stays out
    of ``average``.
    """
    subsets = {name: np.asarray(means[name])[..., 0] for name in SUBSETS if name in means}
    ties = np.asarray(means[TIES])[..., 0] if TIES in means else None
    return {"subsets": subsets, "average": mean_of(subsets.values()), "ties_pairwise": ties}


class _Margins(NamedTuple):
    accurate: bool
    among_right: float
    """Best minus worst right answer; 0 where there is one."""
    to_wrong: float
    """Worst right minus best wrong answer."""


def ties_score(ratings: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> float:
    """The official score of the Ties subset for a judge that rates single answers.

    ``ratings`` maps ids, ``ref:N`` (one right answer) and ``tied:N`` (several), to the ratings of the right and of the
    wrong answers. 0.3 each for the shares of tied and of reference prompts whose right answers all beat the wrong
    ones; 0.2 for tied prompts whose margin to the wrong answers is larger than the spread of the right ones; 0.2 for
    those where the reference's margin is larger, too; 0.01 for the mean of ``tanh(margin / spread - 1)``.

    Raises:
        DataError: an id of another form, a prompt without its partner, or without right or wrong answers.

    """
    margins: dict[str, dict[str, _Margins]] = {"ref": {}, "tied": {}}
    for name, (right, wrong) in ratings.items():
        kind, _, number = name.partition(":")
        if kind not in margins or not number or not right or not wrong:
            raise DataError(f"Ties prompt {name!r}: needs an id ref:N or tied:N and ratings of right and wrong answers")
        to_wrong = min(right) - max(wrong)
        margins[kind][number] = _Margins(to_wrong > 0, max(right) - min(right), to_wrong)
    if not margins["ref"] or margins["ref"].keys() != margins["tied"].keys():
        raise DataError("Ties: every ref:N needs its tied:N and the other way round")
    pairs = [(margins["ref"][number], tied) for number, tied in margins["tied"].items()]
    least = [min(ref.to_wrong, tied.to_wrong) for ref, tied in pairs]
    spread = [tied.among_right for _, tied in pairs]
    closeness = [
        # The limit where all right answers are rated the same; 0 / 0 counts nothing.
        math.tanh(low / wide - 1) if wide else float(np.sign(low))
        for low, wide in zip(least, spread, strict=True)
    ]
    count = len(pairs)
    return (
        0.3 * sum(tied.accurate for _, tied in pairs) / count
        + 0.3 * sum(ref.accurate for ref, _ in pairs) / count
        + 0.2 * sum(tied.to_wrong > tied.among_right for _, tied in pairs) / count
        + 0.2 * sum(low > wide for low, wide in zip(least, spread, strict=True)) / count
        + 0.01 * sum(closeness) / count
    )


BENCHMARK = Benchmark("reward_bench_2", "RewardBench 2", load, observe, combine, items=1865)
