"""The built-in task family as a benchmark: what the tiny judge is trained on, fresh or as a run held it out."""

from __future__ import annotations

from pathlib import Path

from pipelines.benchmarks.benchmark import Benchmark, Comparison
from pipelines.benchmarks.pairs import combine, observe
from pipelines.data.schema import read_pairs
from pipelines.data.tiny_tasks import generate_items

_SEED = 20_000
_PAIRS = 600


def load(location: str | None) -> list[Comparison]:
    """Pairs of a parquet file that `prepare` wrote; without one, 600 pairs of a seed that no recipe uses."""
    pairs = read_pairs(Path(location)) if location else generate_items(_SEED, {"heldout": _PAIRS})["heldout"]
    return [Comparison(pair, pair.domain, pair.id, str(pair.metadata.get("kind", pair.domain))) for pair in pairs]


BENCHMARK = Benchmark("builtin", "Built-in family", load, observe, combine)
