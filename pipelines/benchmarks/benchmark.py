"""What a benchmark is: comparisons to judge, and official figures computed from their scores.

Every official figure in use is arithmetic on means over fixed strata (subsets, domains, categories). A benchmark states
how scored rows become observations of a stratum (:attr:`Benchmark.observe`) and how the strata's means become figures
(:attr:`Benchmark.combine`); scores and bootstrap intervals follow from the two. A new benchmark is one file in this
folder that defines ``BENCHMARK``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actors.messages import JudgeMode, Order
from pipelines.data.schema import DataError, PreferencePair
from pipelines.evaluation.bootstrap import bounds, resampled_sums

Figures = dict[str, Any]
"""Official figures by name; the values are numbers, None, or mappings of names to numbers."""

Observations = Mapping[str, Mapping[str, np.ndarray]]
"""Stratum -> independent unit (a prompt, a group) -> ``[m, 2]``: sums and counts of the unit's ``m`` quantities."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A pair to judge and its place in the benchmark."""

    pair: PreferencePair
    """``id`` is unique in the benchmark."""
    subset: str
    """As the official score groups it."""
    item: str
    """The prompt it belongs to: comparisons of one item are not independent. Unique in its subset."""
    category: str = ""
    """A further, coarser or finer grouping for reports."""
    group: str | None = None
    """Best-of-N group; all of its comparisons have to be right."""
    chosen_style: int | None = None
    """Number of the chosen response's style, where the benchmark has styles (:attr:`Matrix.styles`)."""
    rejected_style: int | None = None
    mode: JudgeMode = "pairwise"
    """How it is put to the judge. Of a list, the further responses are ``others`` of the pair's metadata; of a rating,
    the pair's ``chosen`` is the response, and ``right`` of the metadata says whether it is one of the right ones."""


@dataclass(frozen=True, slots=True)
class Score:
    """The outcome of one comparison in one order, all its votes together."""

    subset: str
    item: str
    score: float
    """1 right, 0 wrong, 0.5 a tie; of a list and a rating also others."""
    group: str | None = None
    chosen_style: int | None = None
    rejected_style: int | None = None
    comparison: str | None = None
    """Names the comparison whose orders belong together; None: this row is a comparison of its own."""
    order: Order | None = None
    mode: JudgeMode = "pairwise"


Combine = Callable[[Mapping[str, np.ndarray], Mapping[str, int]], Figures]
"""Figures from the strata's means (``[..., m]``, leading dimensions are carried through) and their sizes (what the
first quantity counted)."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """For a benchmark that crosses styles: its strata's quantities are a matrix, chosen down and rejected across."""

    styles: tuple[str, ...]
    """Names of the numbers in ``chosen_style`` and ``rejected_style``."""
    figures: Callable[[Figures], Figures]
    """What else is of interest, from the official figures."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark behind the one interface."""

    name: str
    title: str
    load: Callable[[str | None], list[Comparison]]
    """Comparisons of the published set, or of a file or folder in its published form."""
    observe: Callable[[Sequence[Score]], Observations]
    combine: Combine
    """The official figures."""
    unread_score: float = 0.0
    """What the official rule gives a judgment without a readable verdict."""
    items: int | None = None
    """Items of the whole published set; figures over fewer are partial."""
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What published judges reach: model -> official figure (nested names joined by a dot) -> fraction of 1."""
    combine_as_published: Combine | None = None
    """The same with the slip of the evaluation that the published figures come from; None: it has none."""
    matrix: Matrix | None = None
    official: Benchmark | None = None
    """The same by its official protocol, where that asks a judge for more than pairs."""
    not_comparable: str = ""
    """Why the figures must not be set beside those of the published table; empty: they may."""

    def as_published(self) -> Benchmark:
        """This benchmark scored with the published slip; itself where there is none."""
        return replace(self, combine=self.combine_as_published or self.combine)


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        DataError: there is none; names those there are.

    """
    known = names()
    if name not in known:
        raise DataError(
            f"there is no benchmark {name!r}: choose {', '.join(known)}, or give a .jsonl or .parquet file of pairs"
        )
    return importlib.import_module(f"pipelines.benchmarks.{name}").BENCHMARK


def names() -> list[str]:
    """Names of all benchmarks: the modules of this folder that define one."""
    package = importlib.import_module("pipelines.benchmarks")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in modules if hasattr(importlib.import_module(f"pipelines.benchmarks.{name}"), "BENCHMARK")]


def means(observations: Observations) -> dict[str, np.ndarray]:
    """Per stratum, sums over counts of its quantities, ``[m]``; NaN where nothing was counted."""
    return {stratum: _ratio(np.stack(list(units.values())).sum(axis=0)) for stratum, units in observations.items()}


def score(benchmark: Benchmark, rows: Sequence[Score]) -> Figures:
    """Official figures of scored rows.

    Raises:
        DataError: no rows, or rows that cannot belong to the benchmark.

    """
    if not rows:
        raise DataError(f"{benchmark.title}: there are no scored comparisons")
    observations = benchmark.observe(rows)
    return plain(benchmark.combine(means(observations), _sizes(observations)))


def intervals(
    benchmark: Benchmark, rows: Sequence[Score], *, seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> Figures:
    """``[low, high]`` for every official figure: bootstrap over units, drawn within each stratum.

    A benchmark fixes how many items each of its strata has, so these numbers are not resampled.
    """
    observations = benchmark.observe(rows)
    rng = np.random.default_rng(seed)
    drawn = {
        stratum: _ratio(resampled_sums(np.stack(list(units.values())), rng, resamples))  # [resamples, m]
        for stratum, units in observations.items()
    }

    def interval(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: interval(part) for name, part in value.items()}
        if value is None or np.ndim(value) == 0 or np.isnan(value).any():
            return None
        return bounds(value, confidence)

    return interval(benchmark.combine(drawn, _sizes(observations)))


def plain(value: Any) -> Any:
    """Figures as plain Python numbers; NaN becomes None."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if value is None or np.isnan(value):
        return None
    return float(value)


def _sizes(observations: Observations) -> dict[str, int]:
    return {name: round(sum(float(unit[0, 1]) for unit in units.values())) for name, units in observations.items()}


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def by_comparison(rows: Iterable[Score]) -> list[list[Score]]:
    """Rows of one comparison together: its orders where they are named, otherwise each row alone."""
    groups: dict[object, list[Score]] = {}
    for index, row in enumerate(rows):
        key = index if row.comparison is None else (row.subset, row.comparison)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def observed_means(rows: Sequence[Score], stratum: Callable[[Score], str]) -> dict[str, dict[str, np.ndarray]]:
    """The plain case: a unit is an item, its one quantity the score."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(stratum(row), {}).setdefault(row.item, []).append(row.score)
    return {
        name: {item: np.array([[sum(scores), len(scores)]]) for item, scores in units.items()}
        for name, units in found.items()
    }


def mean_of(values: Iterable[Any]) -> Any:
    """Plain mean of numbers or arrays; None where there are none."""
    listed = [value for value in values if value is not None]
    return sum(listed[1:], start=listed[0]) / len(listed) if listed else None


def weighted(values: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> Any:
    """Weighted mean of the strata's first quantity; None where there are none."""
    if not values:
        return None
    total = sum(weights[name] for name in values)
    return sum(np.asarray(value)[..., 0] * weights[name] for name, value in values.items()) / total
