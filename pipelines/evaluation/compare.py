"""Several judges on the same comparisons: who is better, and whether it could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.metrics import interval


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact test that both judges are equally often the only one right: the two-sided p (McNemar 1947).

    Args:
        only_first: comparisons that only the first judge got right.
        only_second: those that only the second did.

    """
    from scipy.stats import binomtest

    both = only_first + only_second
    return float(binomtest(only_first, both).pvalue) if both else 1.0


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], *, seed: int = 0, resamples: int = 1000
) -> dict[str, Any] | None:
    """Two judges by their rows of the per-comparison log of one benchmark; None if they share no comparison.

    Only pairs and orders that both judged count, and no ratings. ``difference`` is the second's accuracy minus the
    first's, with a paired bootstrap interval over items. For McNemar's test a comparison is right if it is in every
    order both judged, because the orders of one pair are not independent: ``both``, ``only_first``, ``only_second``,
    ``neither``, ``p``.
    """
    judged = [[row for row in rows if row.get("mode") != "pointwise"] for rows in (first, second)]
    scores = [{(row["comparison"], row["order"]): row for row in rows} for rows in judged]
    shared = [key for key in scores[0] if key in scores[1]]
    if not shared:
        return None
    differences: dict[tuple[str, str], list[float]] = {}
    right: dict[str, list[bool]] = {}
    for key in shared:
        before, after = scores[0][key], scores[1][key]
        differences.setdefault((before["subset"], before["item"]), []).append(after["score"] - before["score"])
        so_far = right.setdefault(key[0], [True, True])
        right[key[0]] = [so_far[0] and before["score"] == 1, so_far[1] and after["score"] == 1]
    table = [tuple(pair) for pair in right.values()]
    only_first, only_second = table.count((True, False)), table.count((False, True))
    units = [(sum(values), float(len(values))) for values in differences.values()]
    return {
        "comparisons": len(right),
        "first": sum(scores[0][key]["score"] for key in shared) / len(shared),
        "second": sum(scores[1][key]["score"] for key in shared) / len(shared),
        "difference": sum(total for total, _ in units) / len(shared),
        "difference_ci": interval(units, seed, resamples),
        "both": table.count((True, True)),
        "only_first": only_first,
        "only_second": only_second,
        "neither": table.count((False, False)),
        "p": mcnemar(only_first, only_second),
    }
