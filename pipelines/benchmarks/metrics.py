"""The numbers of an evaluation, from judged comparisons alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from actors.messages import Order, Side
from actors.verifier.trace import read_verdict
from pipelines.benchmarks.comparisons import JudgedComparison

_LABEL_OF: dict[Order, Side] = {"chosen_first": "A", "chosen_second": "B"}


def summarise(
    comparisons: Sequence[JudgedComparison], *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> dict[str, Any]:
    """Summarise judged comparisons, over all and by domain. Rates are fractions of 1.

    Keys of the result; a rate whose denominator is empty is None:

    - ``n``: pairs; ``comparisons``: comparisons, twice as many where every pair is judged in both orders.
    - ``accuracy``: right verdicts of all comparisons. A verdict that could not be read counts as wrong.
    - ``accuracy_ci``: ``[low, high]``, percentile bootstrap over pairs (the two orders of a pair stay together).
    - ``consistent_accuracy``: pairs right in both orders, of the pairs judged in both orders.
    - ``flip_rate``: pairs whose two verdicts name different responses, of the pairs whose verdicts could be read in
      both orders. ``swap_consistency`` is 1 minus it.
    - ``parse_rate``: comparisons whose verdict could be read by the mode it was read in; ``strict_parse_rate``: the
      same by the strict rule, read again from the text.
    - ``share_a``: verdicts for side A, of the verdicts that could be read. 0.5 is unbiased over both orders.
    - ``mean_tokens``: generated tokens a comparison.
    - ``extras``: by name, the share of True of the comparisons where the observation is not None.
    - ``parse_failures``: comparisons by cause, only causes that occur.
    - ``by_domain``: the same keys, without this one, for each domain in alphabetical order.

    Args:
        comparisons: at most one for each pair and order.
        seed: of the bootstrap; the same comparisons and seed give the same interval.
        resamples: bootstrap resamples.
        confidence: of the interval.

    Raises:
        ValueError: no comparisons; a pair judged twice in one order; a label that contradicts the order; one pair in
            two domains.

    """
    if not comparisons:
        raise ValueError("no comparisons to summarise: nothing was judged")
    _check(comparisons)
    names = sorted({name for item in comparisons for name in item.extras})
    strict = [_reads_strictly(item) for item in comparisons]
    everything = list(zip(comparisons, strict, strict=True))

    def over(chosen: Sequence[tuple[JudgedComparison, bool]]) -> dict[str, Any]:
        items = [item for item, _ in chosen]
        summary = _rates(items, names)
        summary["strict_parse_rate"] = _share(reads for _, reads in chosen)
        summary["accuracy_ci"] = _bootstrap_accuracy(_by_pair(items), seed, resamples, confidence)
        return summary

    summary = over(everything)
    summary["by_domain"] = {
        domain: over([pair for pair in everything if pair[0].domain == domain])
        for domain in sorted({item.domain for item in comparisons})
    }
    return summary


def _check(comparisons: Sequence[JudgedComparison]) -> None:
    seen: set[tuple[str, Order]] = set()
    domains: dict[str, str] = {}
    for item in comparisons:
        if (item.pair_id, item.order) in seen:
            raise ValueError(f"pair {item.pair_id!r} is judged twice in order {item.order!r}: give each order once")
        seen.add((item.pair_id, item.order))
        if _LABEL_OF.get(item.order) != item.label:
            raise ValueError(f"pair {item.pair_id!r}: label {item.label!r} contradicts order {item.order!r}")
        if domains.setdefault(item.pair_id, item.domain) != item.domain:
            raise ValueError(f"pair {item.pair_id!r} is in two domains: {domains[item.pair_id]!r} and {item.domain!r}")


def _reads_strictly(item: JudgedComparison) -> bool:
    return read_verdict(item.text, "strict", truncated=item.finish_reason == "length").side is not None


def _by_pair(items: Iterable[JudgedComparison]) -> list[list[JudgedComparison]]:
    pairs: dict[str, list[JudgedComparison]] = {}
    for item in items:
        pairs.setdefault(item.pair_id, []).append(item)
    return list(pairs.values())


def _share(values: Iterable[bool]) -> float | None:
    """Share of True, or None where there is nothing to count."""
    flags = list(values)
    return sum(flags) / len(flags) if flags else None


def _rates(items: Sequence[JudgedComparison], names: Sequence[str]) -> dict[str, Any]:
    pairs = _by_pair(items)
    both = [pair for pair in pairs if len(pair) == 2]
    readable = [pair for pair in both if all(item.verdict.side is not None for item in pair)]
    # The label changes side between the orders, so verdicts that name one response are both right or both wrong.
    flip_rate = _share(first.right != second.right for first, second in readable)
    return {
        "n": len(pairs),
        "comparisons": len(items),
        "accuracy": _share(item.right for item in items),
        "consistent_accuracy": _share(first.right and second.right for first, second in both),
        "flip_rate": flip_rate,
        "swap_consistency": None if flip_rate is None else 1.0 - flip_rate,
        "parse_rate": _share(item.verdict.side is not None for item in items),
        "share_a": _share(item.verdict.side == "A" for item in items if item.verdict.side is not None),
        "mean_tokens": sum(item.tokens for item in items) / len(items),
        "extras": {name: _share(_observed(items, name)) for name in names},
        "parse_failures": _causes(items),
    }


def _observed(items: Iterable[JudgedComparison], name: str) -> list[bool]:
    values = [item.extras.get(name) for item in items]
    return [value for value in values if value is not None]


def _causes(items: Iterable[JudgedComparison]) -> dict[str, int]:
    counts = Counter(item.verdict.cause for item in items if item.verdict.cause is not None)
    return {str(cause): count for cause, count in sorted(counts.items())}


def _bootstrap_accuracy(
    pairs: Sequence[Sequence[JudgedComparison]], seed: int, resamples: int, confidence: float
) -> list[float]:
    """Percentile bootstrap interval of accuracy, pairs drawn with replacement.

    Pairs differ only in how many of their one or two comparisons are right, five outcomes at most, so a resample is
    one multinomial draw over the outcomes: the same distribution at a cost that does not grow with the pairs.
    """
    outcomes = Counter((sum(item.right for item in pair), len(pair)) for pair in pairs)
    kinds = sorted(outcomes)
    shares = np.array([outcomes[kind] for kind in kinds]) / len(pairs)
    drawn = np.random.default_rng(seed).multinomial(len(pairs), shares, size=resamples)  # [resamples, kinds]
    right = drawn @ np.array([kind[0] for kind in kinds])
    judged = drawn @ np.array([kind[1] for kind in kinds])
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(right / judged, [tail, 100.0 - tail])
    return [float(low), float(high)]
