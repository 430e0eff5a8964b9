"""Position balance: is the better response as often first as second, overall and in every source?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from pipelines.data.lint.findings import Finding, Shown


def positions(shown: Sequence[Shown], margin: float) -> Finding:
    """Off where a share is more than ``margin`` from one half and chance does not explain it.

    That is 2 standard deviations for the whole, and 3 for each of the sources, of which there are many.
    """
    if not shown:
        return Finding("positions", None, "no prompts")
    groups: dict[str, list[bool]] = defaultdict(list)
    for item in shown:
        groups[item.pair.source].append(item.first)
    overall = [item.first for item in shown]
    unbalanced = [name for name, firsts in groups.items() if _is_off(firsts, margin, 3)]
    ok = not unbalanced and not _is_off(overall, margin, 2)
    shares = {name: sum(firsts) / len(firsts) for name, firsts in sorted(groups.items())}
    share = sum(overall) / len(overall)
    summary = f"better response first in {100 * share:.1f}% of {len(overall)} prompts"
    if unbalanced:
        summary += "; off in " + ", ".join(f"{name} ({100 * shares[name]:.1f}%)" for name in unbalanced)
    return Finding("positions", ok, summary, {"first": share, "prompts": len(overall), "first_by_source": shares})


def _is_off(firsts: Sequence[bool], margin: float, deviations: float) -> bool:
    distance = abs(sum(firsts) / len(firsts) - 0.5)
    return distance > margin and distance >= deviations * 0.5 / math.sqrt(len(firsts)) - 1e-9
