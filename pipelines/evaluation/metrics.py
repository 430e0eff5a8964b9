"""The numbers of an evaluation, from judged comparisons alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from actors.messages import Order, Side
from actors.verifier.trace import read_verdict
from pipelines.evaluation.bootstrap import bounds, resampled_sums
from pipelines.evaluation.comparisons import JudgedComparison

_LABEL_OF: dict[Order, Side] = {"chosen_first": "A", "chosen_second": "B"}

Counts = tuple[float, float]
"""Numerator and denominator that a unit adds to a rate."""


def summarise(
    comparisons: Sequence[JudgedComparison], *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> dict[str, Any]:
    """Summarise judged comparisons, over all and by domain. Rates are fractions of 1.

    Keys of the result; a rate whose denominator is empty is None:

    - ``n``: pairs; ``comparisons``: judgments, twice as many where every pair is judged in both orders, times votes.
    - ``accuracy``: right verdicts of all judgments. A verdict that could not be read counts as wrong.
    - ``accuracy_ci``: ``[low, high]``, percentile bootstrap over units (all judgments of a unit stay together).
    - ``consistent_accuracy``: right in both orders, of the pairs judged in both orders; with votes, of each vote's two.
    - ``flip_rate``: the two verdicts name different responses, of the pairs whose verdicts could be read in
      both orders. ``swap_consistency`` is 1 minus it.
    - ``parse_rate``: judgments whose verdict could be read by the mode it was read in; ``strict_parse_rate``: the
      same by the strict rule, read again from the text.
    - ``share_a``: verdicts for side A, of the verdicts that could be read. 0.5 is unbiased over both orders.
    - ``mean_tokens``: generated tokens per judgment.
    - ``consistent_accuracy_ci``: as ``accuracy_ci``.
    - ``by_order``: ``accuracy`` and ``accuracy_ci`` of each order, by its name.
    - ``extras``: by name, the share of True of the judgments where the observation is not None.
    - ``parse_failures``: judgments by cause, only causes that occur.
    - ``by_domain``: the same keys, without this one, for each domain in alphabetical order.

    With votes, also ``votes`` and ``vote_accuracy``: pairs and orders whose majority of readable votes is right; a tie
    counts half, no readable vote counts as wrong.

    Args:
        comparisons: at most one for each pair, order and vote.
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

        def spread(rate: Callable[[Sequence[JudgedComparison]], Counts]) -> list[float] | None:
            return interval(counts_by_unit(items, rate), seed, resamples, confidence)

        summary |= {"accuracy_ci": spread(_accuracy), "consistent_accuracy_ci": spread(_consistent)}
        summary["by_order"] = {
            order: {"accuracy": ratio(_accuracy_in(order)(items)), "accuracy_ci": spread(_accuracy_in(order))}
            for order in _LABEL_OF
        }
        return summary

    summary = over(everything)
    by_domain: dict[str, list[tuple[JudgedComparison, bool]]] = {}
    for pair in everything:
        by_domain.setdefault(pair[0].domain, []).append(pair)
    summary["by_domain"] = {domain: over(by_domain[domain]) for domain in sorted(by_domain)}
    return summary


def _check(comparisons: Sequence[JudgedComparison]) -> None:
    seen: set[tuple[str, Order, int]] = set()
    domains: dict[str, str] = {}
    for item in comparisons:
        if (item.pair_id, item.order, item.vote) in seen:
            raise ValueError(f"pair {item.pair_id!r} is judged twice in order {item.order!r}: give each order once")
        seen.add((item.pair_id, item.order, item.vote))
        if _LABEL_OF.get(item.order) != item.label:
            raise ValueError(f"pair {item.pair_id!r}: label {item.label!r} contradicts order {item.order!r}")
        if domains.setdefault(item.pair_id, item.domain) != item.domain:
            raise ValueError(f"pair {item.pair_id!r} is in two domains: {domains[item.pair_id]!r} and {item.domain!r}")


def _reads_strictly(item: JudgedComparison) -> bool:
    return read_verdict(item.text, "strict", truncated=item.finish_reason == "length").side is not None


def _share(values: Iterable[bool]) -> float | None:
    """Share of True, or None where there is nothing to count."""
    flags = list(values)
    return sum(flags) / len(flags) if flags else None


def _rates(items: Sequence[JudgedComparison], names: Sequence[str]) -> dict[str, Any]:
    flip_rate = ratio(_flips(items))
    summary = {
        "n": len({item.pair_id for item in items}),
        "comparisons": len(items),
        "accuracy": ratio(_accuracy(items)),
        "consistent_accuracy": ratio(_consistent(items)),
        "flip_rate": flip_rate,
        "swap_consistency": None if flip_rate is None else 1.0 - flip_rate,
        "parse_rate": ratio(_read(items)),
        "share_a": ratio(_says_a(items)),
        "mean_tokens": ratio(_tokens(items)),
        "extras": {name: _share(_observed(items, name)) for name in names},
        "parse_failures": _causes(items),
    }
    votes = max(item.vote for item in items) + 1
    return summary if votes == 1 else {**summary, "votes": votes, "vote_accuracy": ratio(_voted(items))}


def _observed(items: Iterable[JudgedComparison], name: str) -> list[bool]:
    values = [item.extras.get(name) for item in items]
    return [value for value in values if value is not None]


def _causes(items: Iterable[JudgedComparison]) -> dict[str, int]:
    counts = Counter(item.verdict.cause for item in items if item.verdict.cause is not None)
    return {str(cause): count for cause, count in sorted(counts.items())}


# What judgments add to each rate.


def _accuracy(items: Sequence[JudgedComparison]) -> Counts:
    return sum(item.right for item in items), len(items)


def _accuracy_in(order: Order) -> Callable[[Sequence[JudgedComparison]], Counts]:
    return lambda items: _accuracy([item for item in items if item.order == order])


def _both_orders(items: Iterable[JudgedComparison]) -> list[list[JudgedComparison]]:
    pairs: dict[tuple[str, int], list[JudgedComparison]] = {}
    for item in items:
        pairs.setdefault((item.pair_id, item.vote), []).append(item)
    return [pair for pair in pairs.values() if len(pair) == 2]


def _consistent(items: Sequence[JudgedComparison]) -> Counts:
    both = _both_orders(items)
    return sum(first.right and second.right for first, second in both), len(both)


def _flips(items: Sequence[JudgedComparison]) -> Counts:
    readable = [pair for pair in _both_orders(items) if all(item.verdict.side is not None for item in pair)]
    # The label changes side between the orders, so verdicts that name one response are both right or both wrong.
    return sum(first.right != second.right for first, second in readable), len(readable)


def _read(items: Sequence[JudgedComparison]) -> Counts:
    return sum(item.verdict.side is not None for item in items), len(items)


def _says_a(items: Sequence[JudgedComparison]) -> Counts:
    sides = [item.verdict.side for item in items if item.verdict.side is not None]
    return sides.count("A"), len(sides)


def _tokens(items: Sequence[JudgedComparison]) -> Counts:
    return sum(item.tokens for item in items), len(items)


def _voted(items: Sequence[JudgedComparison]) -> Counts:
    ballots: dict[tuple[str, Order], list[JudgedComparison]] = {}
    for item in items:
        ballots.setdefault((item.pair_id, item.order), []).append(item)
    return sum(majority(ballot) for ballot in ballots.values()), len(ballots)


def majority(ballot: Sequence[JudgedComparison], unread: float = 0.0) -> float:
    """1 where most readable votes are right, 0 where most are wrong, 0.5 for a tie; ``unread`` if none can be read."""
    readable = [item.right for item in ballot if item.verdict.side is not None]
    lead = 2 * sum(readable) - len(readable)
    return unread if not readable else 0.5 if lead == 0 else float(lead > 0)


def _with_better(shorter: bool) -> Callable[[Sequence[JudgedComparison]], Counts]:
    def counts(items: Sequence[JudgedComparison]) -> Counts:
        return _accuracy([item for item in items if item.better_shorter is shorter])

    return counts


RATES: dict[str, Callable[[Sequence[JudgedComparison]], Counts]] = {
    "accuracy": _accuracy,
    "consistent_accuracy": _consistent,
    "flip_rate": _flips,
    "share_a": _says_a,
    "parse_rate": _read,
    "vote_accuracy": _voted,
    "accuracy_better_shorter": _with_better(True),
    "accuracy_better_longer": _with_better(False),
    "mean_tokens": _tokens,
}
"""Every rate of :func:`with_intervals`; the first seven are those of :func:`summarise`."""


def with_intervals(
    items: Sequence[JudgedComparison], *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> dict[str, dict[str, Any]]:
    """Each rate of :data:`RATES` as ``{"value", "low", "high", "n"}``; ``n`` is its denominator, and the others are
    None where that is 0. Intervals are percentile bootstrap over units.
    """
    table: dict[str, dict[str, Any]] = {}
    for name, rate in RATES.items():
        counts = counts_by_unit(items, rate)
        low, high = interval(counts, seed, resamples, confidence) or (None, None)
        total = sum(part[1] for part in counts)
        value = sum(part[0] for part in counts) / total if total else None
        table[name] = {"value": value, "low": low, "high": high, "n": int(total)}
    return table


def counts_by_unit(
    items: Iterable[JudgedComparison], rate: Callable[[Sequence[JudgedComparison]], Counts]
) -> list[Counts]:
    """What each independent unit adds to a rate."""
    units: dict[str, list[JudgedComparison]] = {}
    for item in items:
        units.setdefault(item.pair_id if item.unit is None else item.unit, []).append(item)
    return [rate(unit) for unit in units.values()]


def ratio(counts: Counts) -> float | None:
    """Numerator over denominator, None where there is nothing to count."""
    return counts[0] / counts[1] if counts[1] else None


def interval(units: Sequence[Counts], seed: int, resamples: int = 1000, confidence: float = 0.95) -> list[float] | None:
    """Bootstrap interval ``[low, high]`` of a ratio of sums over units; None where nothing is counted."""
    if not sum(denominator for _, denominator in units):
        return None
    sums = resampled_sums(np.array(units, float), np.random.default_rng(seed), resamples)
    sums = sums[sums[:, 1] > 0]
    return bounds(sums[:, 0] / sums[:, 1], confidence)
