"""Schedules for n = 1 to 16: how many comparisons, of whom, and where the best one ends."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from pipelines.judgment.bradley_terry import bradley_terry
from pipelines.judgment.tournaments import METHODS, Method, Pair, most_calls, next_round, order

SIZES = range(1, 17)


def played(method: Method, strength: list[float], rounds: int = 0) -> tuple[dict[Pair, float], int]:
    """All results of a tournament among responses of these strengths, and its rounds."""
    results: dict[Pair, float] = {}
    count = 0
    while pairs := next_round(method, len(strength), results, rounds):
        assert len(set(pairs)) == len(pairs)
        assert all(i < j and (i, j) not in results for i, j in pairs)
        for i, j in pairs:
            results[i, j] = 0.5 + 0.5 * float(np.sign(strength[i] - strength[j]))
        count += 1
    return results, count


def shuffled(n: int, seed: int = 0) -> list[float]:
    return random.Random(seed).sample([float(i) for i in range(n)], n)


@pytest.mark.parametrize("n", SIZES)
def test_how_many_comparisons(n: int) -> None:
    calls = {method: played(method, shuffled(n)) for method in METHODS}
    assert len(calls["all_pairs"][0]) == most_calls("all_pairs", n) == n * (n - 1) // 2
    assert len(calls["knockout"][0]) == most_calls("knockout", n) == n - 1
    assert calls["knockout"][1] == math.ceil(math.log2(n))
    assert len(calls["circular"][0]) == most_calls("circular", n) == min(2 * n, n * (n - 1) // 2)
    assert len(calls["swiss"][0]) <= most_calls("swiss", n)


@pytest.mark.parametrize("n", range(2, 17))
def test_swiss_repeats_no_pair_and_lets_each_rest_once(n: int) -> None:
    results, rounds = played("swiss", shuffled(n))
    met = Counter(i for pair in results for i in pair)
    assert max(met.values()) <= rounds
    if n > 6:
        assert rounds == math.ceil(math.log2(n)) + 1
        assert min(met.values()) >= rounds - 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", range(2, 17))
def test_a_perfect_judge_finds_the_best(method: Method, n: int) -> None:
    for seed in range(5):
        strength = shuffled(n, seed)
        results, _ = played(method, strength, rounds=n if method == "circular" else 0)
        best = order(method, n, results, bradley_terry(n, results)[0].round(9).tolist())
        assert sorted(best) == list(range(n))
        assert strength[best[0]] == n - 1
        if method == "all_pairs":
            assert [strength[i] for i in best] == sorted(strength, reverse=True)


def test_a_tie_goes_to_the_earlier_response() -> None:
    results, _ = played("knockout", [0.0] * 5)
    assert order("knockout", 5, results, [0.0] * 5)[0] in range(5)
    assert order("all_pairs", 3, played("all_pairs", [0.0] * 3)[0], [0.0] * 3) == [0, 1, 2]


def test_strengths_against_a_hand_worked_mode() -> None:
    # Two responses at distance 2x: the prior's slope x / 4 equals what is left of the win, sigmoid(-2x).
    strength, intervals = bradley_terry(2, {(0, 1): 1.0})
    x = strength[0]
    assert x == pytest.approx(-strength[1])
    assert x / 4 == pytest.approx(1 / (1 + math.exp(2 * x)), abs=1e-6)
    assert (intervals[:, 0] < strength).all()
    assert (strength < intervals[:, 1]).all()


def test_ties_and_no_results_are_equal_strengths() -> None:
    assert bradley_terry(3, {})[0].tolist() == [0, 0, 0]
    assert np.abs(bradley_terry(3, {(0, 1): 0.5, (1, 2): 0.5})[0]).max() < 1e-9


def test_intervals_narrow_with_comparisons() -> None:
    few, many = (bradley_terry(8, played(method, shuffled(8))[0])[1] for method in ("knockout", "all_pairs"))
    assert (many[:, 1] - many[:, 0]).mean() < (few[:, 1] - few[:, 0]).mean()


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="choose all_pairs"):
        next_round("league", 3, {})  # type: ignore[arg-type]
