"""Paired significance against values worked out by hand."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import always_a, comparison, judged, perfect, silent

from pipelines.benchmarks.benchmark import find
from pipelines.evaluation.compare import compare, mcnemar
from pipelines.evaluation.results import comparison_rows


def outcomes(judge: Any, numbers: range = range(20), **settings: Any) -> list[dict[str, Any]]:
    """The per-comparison log of a judge."""
    pairs = [comparison(number) for number in numbers]
    return comparison_rows(find("pairs"), judged(find("pairs"), pairs, judge, **settings))


@pytest.mark.slow
def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == 2 / 2**5
    assert mcnemar(5, 0) == 2 / 2**5
    assert mcnemar(2, 8) == 2 * (1 + 10 + 45) / 2**10
    assert mcnemar(3, 3) == 1.0
    # Large counts stay exact; the normal approximation gives z = 50 / sqrt(1050) = 1.543, 0.1228 with no correction.
    assert mcnemar(500, 550) == pytest.approx(0.1304, abs=5e-4)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_binomial_tail(first: int, second: int) -> None:
    count = first + second
    tail = sum(Fraction(comb(count, chosen), 2**count) for chosen in range(min(first, second) + 1))
    assert mcnemar(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), abs=1e-12)


def test_a_perfect_judge_against_one_that_says_a() -> None:
    found = compare(outcomes(always_a), outcomes(perfect))
    assert found is not None
    assert (found["comparisons"], found["first"], found["second"], found["difference"]) == (20, 0.5, 1.0, 0.5)
    assert found["difference_ci"] == [0.5, 0.5]
    # Saying A is right in both orders never, so only the perfect judge is.
    assert (found["both"], found["only_first"], found["only_second"], found["neither"]) == (0, 0, 20, 0)
    assert found["p"] == 2 / 2**20


def test_only_what_both_judged_counts() -> None:
    found = compare(outcomes(perfect, range(10), orders="chosen_first"), outcomes(silent, range(5, 20)))
    assert found is not None
    assert (found["comparisons"], found["first"], found["second"]) == (5, 1.0, 0.0)
    assert (found["only_first"], found["p"]) == (5, 2 / 2**5)
    assert compare(outcomes(perfect, range(3)), outcomes(perfect, range(5, 8))) is None


def test_equal_judges_do_not_differ() -> None:
    found = compare(outcomes(perfect), outcomes(perfect))
    assert found is not None
    assert (found["difference"], found["difference_ci"], found["p"], found["both"]) == (0.0, [0.0, 0.0], 1.0, 20)
