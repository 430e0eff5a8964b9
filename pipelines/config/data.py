"""Settings of preference data: where pairs come from, how they are mixed and checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.config.constraints import FILE, OUTPUT, location, number, one_of


@dataclass
class MixSource:
    """One file or hub dataset of a mix."""

    path: str | None = location()
    """A file, a folder of files, or a hub name; null: where the named schema is published."""
    schema: str = "auto"
    """A module of `pipelines/data/sources`; `auto` tells it from the rows."""
    split: str = "train"
    """Split to read of a hub dataset."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field -> the column that holds it (`chosen: best.text`), for files of no known schema."""
    labels: dict[str, str] = field(default_factory=dict)
    """Value of a mapped `label` column -> `A` or `B`."""
    source: str | None = None
    """Name of the pairs' source; null: what the schema gives."""
    domain: str | None = None
    leave_out: list[str] | None = None
    """Sources of pairs not to use; null: those the schema leaves out."""
    take: int = number(0, at_least=0)
    """Pairs drawn from it by seed; 0: all."""


@dataclass
class Mix:
    """How `make data` builds a data set."""

    sources: dict[str, MixSource] = field(default_factory=dict)
    """By a name of your own; empty: `data.train` is the one source."""
    expect: dict[str, int] = field(default_factory=dict)
    """Pairs each source should have before duplicates are dropped; other counts are a warning."""
    drop_near_duplicates: bool = False
    drop_benchmark_items: bool = False
    """Leave out pairs that overlap with `data.lint.benchmarks`, instead of failing the check."""
    folder: str = location("data", OUTPUT)
    """Where data sets go: `<folder>/<name>/`."""


@dataclass
class Lint:
    """What `make lint-data` holds pairs to."""

    levels: dict[str, str] = field(default_factory=dict)
    """Check -> `fail`, `warn` or `off`, where it differs from the default."""
    benchmarks: list[str] = field(default_factory=list, metadata=FILE)
    """Files of benchmark items (.jsonl, .parquet) that pairs must not contain."""
    position_margin: float = number(0.05, at_least=0)
    """How far from one half the share of pairs whose better response is shown first may lie."""
    leak_margin: float = number(0.02, at_least=0)
    """How far above chance a classifier may guess the label from the masked prompt, in accuracy."""
    bias_margin: float = number(0.1, at_least=0)
    """Distance from one half at which "longer wins" and "more markdown wins" are reported."""
    near_duplicate: float = number(0.8, at_least=0.5, at_most=1)
    """Two pairs are near duplicates if the Jaccard similarity of their word 5-grams is at least this."""
    overlap: float = number(0.5, at_least=0.01, at_most=1)
    """A pair contains a benchmark item if it has at least this share of the item's word 8-grams."""
    truncated: float = number(0.2, at_least=0, at_most=1)
    """Responses without an end are reported if more than this share are."""


@dataclass
class Modes:
    """Shares of the pairs that are put to the judge in each mode; they need not add up to 1."""

    pairwise: float = number(1.0, at_least=0)
    """Which of both responses is better."""
    pointwise: float = number(0.0, at_least=0)
    """A rating of each, from 1 to 10; needs `orders=both`, as the two ratings of a pair are compared."""
    listwise: float = number(0.0, at_least=0)
    """An order of both, and of the `others` in a pair's metadata; needs `orders=both`."""


@dataclass
class Data:
    """Preference pairs and reasoning chains."""

    train: str | None = location()
    """Pairs for RL: a file, a folder of files, or a hub name; null: the built-in family."""
    heldout: str | None = location()
    """Pairs for evaluation; null: split off `train` by prompt, or the built-in family's."""
    heldout_fraction: float = number(0.05, above=0, below=1)
    chains: str | None = location()
    """Chains to distil: a file or folder of rows with `messages` and `chain`; null: the built-in teacher's."""
    orders: str = one_of("alternate", "random", "both")
    """Label position in RL: `alternate`, `random`, or `both` orders of every pair in the same batch."""
    modes: Modes = field(default_factory=Modes)
    on_bad_row: str = one_of("fail", "skip")
    """`fail` at a row that cannot be used, or `skip` and count it."""
    ignore_columns: list[str] = field(default_factory=list)
    """Columns of pairs and chains to leave out, though by their name they could be part of the question."""
    mix: Mix = field(default_factory=Mix)
    lint: Lint = field(default_factory=Lint)
    wording: str = one_of("terse", "natural")
    """The built-in family's texts: `terse`, for a model from scratch, or `natural`, English sentences."""
    criteria: int = number(3, at_least=2, at_most=3)
    """How many criteria its Chat items name."""
    reasoning_share: float = number(0.4, at_least=0, at_most=1)
    """Share of its items that are Reasoning; the others are Chat."""
    distill_pairs: int = number(7000, at_least=1)
    """Sizes of the built-in family's three disjoint sets."""
    rl_pairs: int = number(8000, at_least=1)
    heldout_pairs: int = number(600, at_least=1)
