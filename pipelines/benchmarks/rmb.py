"""RMB (arXiv 2410.09893): pairwise and best-of-N sets, each for helpfulness and for harmlessness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    by_comparison,
    mean_of,
    observed_means,
    weighted,
)
from pipelines.benchmarks.published import rm_r1_paper
from pipelines.benchmarks.rows import Row, read
from pipelines.data.schema import DataError, Message, PreferencePair, messages_of, text_field

SETS = {
    "Pairwise_set/Helpfulness": "pairwise_helpfulness",
    "Pairwise_set/Harmlessness": "pairwise_harmlessness",
    "BoN_set/Helpfulness": "bon_helpfulness",
    "BoN_set/Harmlessness": "bon_harmlessness",
}


def load(location: str | None) -> list[Comparison]:
    """Rows with ``conversation_input`` and either ``chosen`` and ``reject`` or ``bon_best`` and ``loser_list``."""
    common = ("conversation_input", "category_path")
    needs = [(*common, "chosen", "reject"), (*common, "bon_best", "loser_list")]
    comparisons: list[Comparison] = []
    groups = 0
    for row in read("rmb", location, needs, None, []):
        path = text_field(row.fields, "category_path", row.place)
        set_of(path, row.place)
        prompt = _conversation(row)
        if "bon_best" in row.fields:
            best, losers = _answer(row, row.fields["bon_best"], "bon_best"), row.fields["loser_list"]
            if not isinstance(losers, list) or not losers:
                raise DataError(f"{row.place}, field 'loser_list': must be a list of answers, at least one")
            # By position, as the reference groups them: upstream, a `bon_uid` need not be unique.
            uid = f"{path}/{row.identifier('bon_uid')}#{groups}"
            for index, loser in enumerate(losers):
                pair = PreferencePair(f"{uid}/{index}", "rmb", path, prompt, best, _answer(row, loser, "loser_list"))
                comparisons.append(Comparison(pair, path, uid, _category(path), group=str(groups)))
            groups += 1
        else:
            uid = f"{path}/{row.identifier('pair_uid')}"
            chosen, rejected = (_answer(row, row.fields[field], field) for field in ("chosen", "reject"))
            pair = PreferencePair(uid, "rmb", path, prompt, chosen, rejected)
            comparisons.append(Comparison(pair, path, uid, _category(path)))
    return comparisons


def _answer(row: Row, value: Any, field: str) -> str:
    if not isinstance(value, Mapping):
        raise DataError(f"{row.place}, field {field!r}: needs {{llm_name, answer}}")
    return text_field(value, "answer", f"{row.place}, field {field!r}")


def _conversation(row: Row) -> tuple[Message, ...]:
    return messages_of(row.fields["conversation_input"], row.place, "conversation_input")


def _category(path: str) -> str:
    """``Pairwise_set/Helpfulness/Chat/Discussion`` is in ``Pairwise_set/Helpfulness/Chat``."""
    return "/".join(path.split("/")[:3])


def set_of(path: str, place: str = "RMB") -> str:
    """Which of the four sets a category path belongs to.

    Raises:
        DataError: none of them.

    """
    name = SETS.get("/".join(path.split("/")[:2]))
    if name is None:
        raise DataError(f"{place}: category path {path!r} must begin with {', '.join(SETS)}")
    return name


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are categories; a unit is a pair, or a best-of-N group.

    A group is right if every one of its comparisons is. Where comparisons were judged in both orders a group counts the
    probability of that under a random order for each: the product of its comparisons' means, which is what the
    reference, one random order for each comparison, has as its expectation.
    """
    pairwise = [row for row in rows if set_of(row.subset).startswith("pairwise")]
    found: dict[str, dict[str, np.ndarray]] = dict(observed_means(pairwise, lambda row: row.subset))
    groups: dict[tuple[str, str], list[Score]] = {}
    for row in rows:
        if set_of(row.subset).startswith("bon"):
            if row.group is None:
                raise DataError(f"RMB item {row.item!r} of {row.subset!r}: a best-of-N comparison needs a 'group'")
            groups.setdefault((row.subset, row.group), []).append(row)
    for (path, group), members in groups.items():
        # A tie is not a win, so 0.5 fails its comparison.
        shares = [sum(row.score == 1 for row in each) / len(each) for each in by_comparison(members)]
        found.setdefault(path, {})[group] = np.array([[math.prod(shares), 1.0]])
    return found


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """Accuracy over all pairs or groups of each set, and the plain mean of the four."""
    figures: Figures = {}
    for name in SETS.values():
        figures[name] = weighted({path: value for path, value in means.items() if set_of(path) == name}, sizes)
    return {**figures, "average": mean_of(figures.values())}


BENCHMARK = Benchmark(
    "rmb",
    "RMB",
    load,
    observe,
    combine,
    items=20917,
    published=rm_r1_paper(
        {
            "bon_helpfulness": (54.3, 59.4, 63.6, 45.1, 59.3, 62.0),
            "pairwise_helpfulness": (74.0, 77.6, 79.1, 65.8, 76.5, 78.2),
            "bon_harmlessness": (60.8, 62.0, 68.2, 42.9, 61.3, 61.8),
            "pairwise_harmlessness": (76.5, 77.8, 80.9, 66.4, 76.9, 77.1),
            "average": (66.4, 69.2, 73.0, 55.1, 68.5, 69.8),
        }
    ),
)
