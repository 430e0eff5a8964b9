"""Any preference file, and the built-in family: accuracy over all pairs, and of each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.benchmarks.benchmark import (
    Benchmark,
    Comparison,
    Figures,
    Observations,
    Score,
    observed_means,
    weighted,
)
from pipelines.data.preference_file import load_pairs
from pipelines.data.schema import DataError


def load(location: str | None) -> list[Comparison]:
    """Pairs of a .jsonl or .parquet file or a hub dataset, each its own item."""
    if location is None:
        raise DataError("pairs: set evaluate.paths.pairs to a .jsonl or .parquet file, or give the file as a benchmark")
    return [Comparison(pair, pair.domain, pair.id, pair.source) for pair in load_pairs(location)]


def observe(rows: Sequence[Score]) -> Observations:
    """Strata are domains, units pairs."""
    return observed_means(rows, lambda row: row.subset)


def combine(means: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> Figures:
    """``domains``, and ``accuracy`` over all pairs."""
    return {"domains": {name: np.asarray(means[name])[..., 0] for name in means}, "accuracy": weighted(means, sizes)}


BENCHMARK = Benchmark("pairs", "Preference pairs", load, observe, combine)
