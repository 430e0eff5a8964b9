"""Every row of the tables has its function and a value worked by hand, and configuration takes exactly these names."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from small_settings import small_policy

from actors.learner import choices
from actors.learner.advantages import group_advantages
from actors.learner.corrections import importance_weights
from actors.learner.objectives import kl_divergence, loss_divisor, policy_loss, policy_ratio, token_weights
from actors.learner.settings import PolicySettings
from pipelines.config import Algorithm, Optimizer

# One trace of two tokens whose probabilities are 1.5 and 0.5 times the old ones, bounds 0.8 and 1.3.
LOSSES = {
    # max(-1.5 x 2, -1.3 x 2), max(0.5 x 1, 0.8 x 1)
    "clip": [-2.6, 0.8],
    # -1.3 x 2 x log p, 0.8 x 1 x log p
    "cispo": [2.6, -1.6],
    # sqrt(1.3 x 0.8), times -2 and 1
    "gmpo": [-2 * math.sqrt(1.04), math.sqrt(1.04)],
}
# Tokens of ratios 2 and 8.
RATIOS = {"token": [2, 8], "sequence": [16, 16], "sequence_mean": [4, 4]}
# Traces of one and of two tokens; what the sum is divided by, of 3 tokens in 2 traces.
AGGREGATIONS = {
    "token_mean": ([1, 1, 1], 3),
    "sequence_mean": ([1, 1 / 2, 1 / 2], 2),
    "fixed_length": ([1 / 8, 1 / 8, 1 / 8], 2),
}
# Policy 1/2, reference 1/4.
KL_ESTIMATORS = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": 1 / 2 - 1 + math.log(2)}
# Weights 4 and 1/4 within 1/2 and 2.
CORRECTIONS = {"none": [1, 1], "truncate": [2, 1 / 4], "mask": [0, 0]}
CORRECTION_LEVELS = {"token": [2, 1 / 4], "sequence": [1, 1]}
# Rewards 3, 1, 2: mean 2, sample deviation 1; means of the others 1.5, 2.5, 2.
ADVANTAGES = {
    "standardised": [1, -1, 0],
    "centred": [1, -1, 0],
    "leave_one_out": [1.5, -1.5, 0],
    "batch_standardised": [3, 1, 2],
    "centred_batch_standardised": [1, -1, 0],
}


@pytest.mark.parametrize("name", choices.LOSSES)
def test_losses(name: str) -> None:
    logprobs = torch.tensor([-1.0, -2.0])
    settings = small_policy(loss=name, clip_low=0.2, clip_high=0.3)
    old = logprobs - torch.tensor([1.5, 0.5]).log()
    policy = policy_loss(logprobs, old, torch.tensor([2.0, -1.0]), [2], settings)
    assert policy.losses.tolist() == pytest.approx(LOSSES[name], rel=1e-5)
    assert policy.ratios.tolist() == pytest.approx([1.5, 0.5], rel=1e-5)
    assert (policy.above.tolist(), policy.below.tolist()) == ([True, False], [False, True])


@pytest.mark.parametrize("name", choices.RATIOS)
def test_ratios(name: str) -> None:
    ratios = policy_ratio(torch.tensor([2.0, 8.0]).log(), torch.zeros(2), [2], name)
    assert ratios.tolist() == pytest.approx(RATIOS[name], rel=1e-5)


@pytest.mark.parametrize("name", choices.AGGREGATIONS)
def test_aggregations(name: str) -> None:
    assert (token_weights([1, 2], name, 8).tolist(), loss_divisor(name, 3, 2)) == AGGREGATIONS[name]


@pytest.mark.parametrize("name", choices.KL_ESTIMATORS)
def test_kl_estimators(name: str) -> None:
    kl = kl_divergence(torch.tensor([0.5]).log(), torch.tensor([0.25]).log(), name)
    assert kl.item() == pytest.approx(KL_ESTIMATORS[name], rel=1e-5)


@pytest.mark.parametrize("name", choices.CORRECTIONS)
def test_corrections(name: str) -> None:
    assert weights(name, "token") == pytest.approx(CORRECTIONS[name])


@pytest.mark.parametrize("name", choices.CORRECTION_LEVELS)
def test_correction_levels(name: str) -> None:
    assert weights("truncate", name) == pytest.approx(CORRECTION_LEVELS[name])


def weights(kind: str, level: str) -> list[float]:
    learner = torch.tensor([4.0, 0.25]).log()
    found = importance_weights(learner, torch.zeros(2), [2], kind=kind, level=level, floor=0.5, limit=2.0)
    return found.weights.tolist()


@pytest.mark.parametrize("name", choices.ADVANTAGES)
def test_advantages(name: str) -> None:
    assert group_advantages(np.array([3.0, 1.0, 2.0]), name) == pytest.approx(ADVANTAGES[name], abs=1e-5)


@pytest.mark.parametrize(
    ("section", "key", "table"),
    [
        (Algorithm, "loss", choices.LOSSES),
        (Algorithm, "ratio", choices.RATIOS),
        (Algorithm, "aggregation", choices.AGGREGATIONS),
        (Algorithm, "kl_estimator", choices.KL_ESTIMATORS),
        (Algorithm, "correction", choices.CORRECTIONS),
        (Algorithm, "correction_level", choices.CORRECTION_LEVELS),
        (Algorithm, "advantage", choices.ADVANTAGES),
        (Optimizer, "name", choices.OPTIMIZERS),
    ],
)
def test_configuration_takes_the_names_of_the_table(section: Any, key: str, table: Any) -> None:
    [setting] = [item for item in fields(section) if item.name == key]
    assert setting.metadata["choices"] == tuple(table)


@pytest.mark.slow
def test_configuration_reads_the_tables_without_torch() -> None:
    code = """
import sys, pipelines.config
sys.exit('torch' in sys.modules or 'actors.learner.choices' not in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_loss_takes_what_there_is() -> None:
    there = {"logprobs", "ratios", "advantages", "counts", *(item.name for item in fields(PolicySettings))}
    assert all(set(row.takes) <= there for row in choices.LOSSES.values())
