"""What an objective can be made of: one table per part, with a row for every name that a setting may have; no torch.

A row names its function, which is in the module named above the table, and says what other code must know of it, such
as which other choices it goes with. A new loss is a function there and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Choice:
    """A row."""

    function: str
    """Name of the function that computes it."""


@dataclass(frozen=True, slots=True)
class Loss(Choice):
    """A policy loss."""

    takes: tuple[str, ...] = ()
    """Its arguments by name: `logprobs`, `ratios`, `advantages`, `counts`, or a field of ``PolicySettings``."""
    bounds_tokens: bool = False
    """Its bounds are meant for the ratio of single tokens, not of traces."""
    per_trace: bool = False
    """All tokens of a trace share one value."""


@dataclass(frozen=True, slots=True)
class Ratio(Choice):
    """What a policy ratio is taken of."""

    per_trace: bool = False
    """All tokens of a trace share one value."""


@dataclass(frozen=True, slots=True)
class Aggregation(Choice):
    """How tokens are weighed."""

    per_token: bool = False
    """The sum is divided by the tokens of the mini-batch, not by its traces."""
    equal_traces: bool = False
    """Traces count alike, whatever their length."""


@dataclass(frozen=True, slots=True)
class KlEstimator(Choice):
    """An estimate of the KL divergence on sampled tokens."""

    restrains: bool = True
    """As a loss it has a gradient whose mean is not 0."""


@dataclass(frozen=True, slots=True)
class Advantage(Choice):
    """How rewards become advantages."""

    needs_group: bool = False
    """Compares a trace with others of its prompt. Otherwise each token has the reward less the penalties from it on."""
    over_batch: bool = False
    """Ends with standardising over all tokens of the rollout batch."""


@dataclass(frozen=True, slots=True)
class Attention(Choice):
    """Attention of packed rows; the function says how a row's segments attend."""

    devices: tuple[str, ...] = ()
    """On which it has gradients."""


# Functions of objectives.py.
LOSSES: Mapping[str, Loss] = {
    "clip": Loss("clipped_loss", ("ratios", "advantages", "clip_low", "clip_high", "dual_clip")),
    "cispo": Loss("cispo_loss", ("ratios", "logprobs", "advantages", "clip_low", "clip_high"), bounds_tokens=True),
    "gmpo": Loss(
        "gmpo_loss", ("ratios", "advantages", "counts", "clip_low", "clip_high"), bounds_tokens=True, per_trace=True
    ),
}
RATIOS: Mapping[str, Ratio] = {
    "token": Ratio("of_tokens"),
    "sequence": Ratio("sums_over_traces", per_trace=True),
    "sequence_mean": Ratio("means_over_traces", per_trace=True),
}
AGGREGATIONS: Mapping[str, Aggregation] = {
    "token_mean": Aggregation("whole_tokens", per_token=True),
    "sequence_mean": Aggregation("shares_of_traces", equal_traces=True),
    "fixed_length": Aggregation("shares_of_fixed_length"),
}
KL_ESTIMATORS: Mapping[str, KlEstimator] = {
    "k3": KlEstimator("k3_estimate"),
    "k1": KlEstimator("k1_estimate", restrains=False),
    "k2": KlEstimator("k2_estimate"),
}

# Functions of corrections.py; the levels are ratios.
CORRECTIONS: Mapping[str, Choice] = {
    "none": Choice("unweighted"),
    "truncate": Choice("truncated"),
    "mask": Choice("masked"),
}
CORRECTION_LEVELS: Mapping[str, Ratio] = {name: RATIOS[name] for name in ("token", "sequence")}

# Functions of advantages.py.
ADVANTAGES: Mapping[str, Advantage] = {
    "standardised": Advantage("standardised", needs_group=True),
    "centred": Advantage("centred", needs_group=True),
    "leave_one_out": Advantage("leave_one_out", needs_group=True),
    "centred_batch_standardised": Advantage("centred", needs_group=True, over_batch=True),
    "batch_standardised": Advantage("as_they_are", over_batch=True),
}

# Functions of attention.py; a device takes the first row that trains on it.
ATTENTIONS: Mapping[str, Attention] = {
    "flex": Attention("block_mask", devices=("cuda",)),
    "sdpa": Attention("buckets", devices=("cuda", "cpu")),
}

OPTIMIZERS = ("adamw", "adamw8bit", "muon")
"""See ``build_optimizers`` in ``optimizers.py``."""

LOGITS_BYTES: Mapping[str, int] = {"cpu": 2**27, "cuda": 2**30, "meta": 2**30}
"""Bytes of one float32 chunk of tokens x vocabulary in ``head.py``, by device; no more than three exist at a time."""


def chosen(what: str, table: Mapping[str, Choice], name: str, functions: Mapping[str, Any]) -> Callable[..., Any]:
    """The function of the row ``name``.

    Args:
        what: the part of the objective, for the error.
        table: one of those above.
        name: of the row.
        functions: the globals of the module that has the table's functions.

    Raises:
        ValueError: there is no such row.

    """
    if name not in table:
        raise ValueError(f"{what} {name!r} is not one of {', '.join(table)}")
    return functions[table[name].function]
