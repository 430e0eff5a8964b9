"""Advantages and the KL coefficient against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.learner.advantages import (
    adapted_coefficient,
    group_advantages,
    returns_to_go,
    standardise_batch,
)
from actors.learner.choices import ADVANTAGES


def test_standardised_by_hand() -> None:
    # Mean -0.5; squared deviations 2.25 + 3 x 0.25 = 3; sample variance 3 / 3 = 1.
    assert group_advantages(np.array([1.0, -1.0, -1.0, -1.0])) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    # Seven traces, five right: mean 3/7, sample variance (5 x (4/7)^2 + 2 x (10/7)^2) / 6 = 280 / 294.
    spread = math.sqrt(280 / 294)
    expected = [4 / 7 / spread] * 5 + [-10 / 7 / spread] * 2
    assert group_advantages(np.array([1.0] * 5 + [-1.0] * 2)) == pytest.approx(expected, abs=1e-5)


def test_others_by_hand() -> None:
    rewards = np.array([1.0, -1.0, -1.0, -1.0])
    for estimator in ("centred", "centred_batch_standardised"):
        assert group_advantages(rewards, estimator).tolist() == [1.5, -0.5, -0.5, -0.5]
    # 1 - mean(-1, -1, -1) = 2; -1 - mean(1, -1, -1) = -2/3.
    assert group_advantages(rewards, "leave_one_out") == pytest.approx([2, -2 / 3, -2 / 3, -2 / 3])
    assert group_advantages(rewards, "batch_standardised").tolist() == rewards.tolist()
    with pytest.raises(ValueError, match="'mean' is not one of standardised"):
        group_advantages(rewards, "mean")


@pytest.mark.parametrize("estimator", [name for name, row in ADVANTAGES.items() if row.needs_group])
@pytest.mark.parametrize("rewards", [[0.1, 0.1, 0.1], [1.0] * 8, [0.7]])
def test_equal_rewards_have_no_advantage_at_all(rewards: list[float], estimator: str) -> None:
    assert group_advantages(np.array(rewards), estimator).tolist() == [0.0] * len(rewards)


def test_returns_to_go_by_hand() -> None:
    # 1 - (0.1 + 0.2 + 0.3), 1 - (0.2 + 0.3), 1 - 0.3
    assert returns_to_go(1.0, np.array([0.1, 0.2, 0.3])) == pytest.approx([0.4, 0.5, 0.7])


def test_the_batch_is_standardised_over_tokens() -> None:
    # Tokens 1, 1, 1, -1: mean 0.5, variance 0.75.
    first, second = standardise_batch([np.array([1.0, 1.0, 1.0]), np.array([-1.0])])
    assert first == pytest.approx([0.5 / math.sqrt(0.75)] * 3, rel=1e-6)
    assert second == pytest.approx([-1.5 / math.sqrt(0.75)], rel=1e-6)
    assert standardise_batch([np.array([0.1, 0.1]), np.array([0.1])])[0].tolist() == [0.0, 0.0]
    assert standardise_batch([]) == []


def test_the_coefficient_follows_the_kl() -> None:
    # e = 0.1 -> x 1.01; far off it is held at 0.2 -> x 1.02 or x 0.98.
    assert adapted_coefficient(0.5, 0.11, 0.1) == pytest.approx(0.505)
    assert adapted_coefficient(0.5, 7.0, 0.1) == pytest.approx(0.51)
    assert adapted_coefficient(0.5, 0.0, 0.1) == pytest.approx(0.49)
    assert adapted_coefficient(0.5, 0.1, 0.1) == 0.5
