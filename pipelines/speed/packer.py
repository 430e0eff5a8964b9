"""Cutting and packing sequences into micro-batches: time, padding, balance, bins over the lower bound."""

from __future__ import annotations

import random
from typing import Any

from actors.learner.planning import pack, plan
from pipelines.speed.timing import median_seconds

BUDGET, RANKS = 16384, 8


def packer() -> dict[str, Any]:
    """4,096 log-normal lengths (mean about 1,850, cap 16,384) for 8 ranks: padded rows, and packed rows."""
    rng = random.Random(0)
    lengths = [min(BUDGET, max(16, int(rng.lognormvariate(7.2, 0.8)))) for _ in range(4096)]
    padded = plan(lengths, RANKS, BUDGET)
    rows = sum(len(micro) * max(lengths[index] for index in micro) for rank in padded for micro in rank if micro)
    packed = pack(lengths, RANKS, BUDGET)
    bound = -(-sum(lengths) // BUDGET)
    return {
        "packer_ms": median_seconds(lambda: pack(lengths, RANKS, BUDGET)) * 1000,
        "packer_bins_over_bound": sum(bool(micro) for rank in packed for micro in rank) - bound,
        "packer_imbalance": _imbalance(packed, lengths),
        "planner_ms": median_seconds(lambda: plan(lengths, RANKS, BUDGET)) * 1000,
        "planner_padding": rows / sum(lengths) - 1,
        "planner_imbalance": _imbalance(padded, lengths),
    }


def _imbalance(parts: list[list[list[int]]], lengths: list[int]) -> float:
    """Tokens of the fullest rank over the mean, less 1."""
    loads = [sum(lengths[index] for micro in rank for index in micro) for rank in parts]
    return max(loads) * len(loads) / sum(loads) - 1
