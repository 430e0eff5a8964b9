"""Judges whose every figure can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from judges import always_a, answer, comparison, fair_coin, judged, longer, other, perfect, row, silent

from pipelines.benchmarks.benchmark import Comparison, find
from pipelines.data.schema import Message, PreferencePair
from pipelines.evaluation.judging import TOO_LONG, Judgment, not_judged
from pipelines.evaluation.results import results

PAIRS = [comparison(number) for number in range(200)]


def figures(rows: list[dict[str, Any]], name: str = "pairs") -> dict[str, Any]:
    """All figures, with a quick bootstrap."""
    return results(find(name), rows, resamples=200)


def value(result: dict[str, Any], rate: str) -> float | None:
    """A rate over everything."""
    return result["overall"][rate]["value"]


def styled(prompts: int = 4) -> list[Comparison]:
    """RM-Bench prompts in all four domains whose style alone decides the length."""
    items = []
    for domain in ("chat", "math", "code", "safety"):
        for number in range(prompts):
            for first in range(3):
                for second in range(3):
                    chosen, rejected = "good" * (first + 1) + ".", "evil" * (second + 1)
                    pair = PreferencePair(
                        f"{domain}/{number}/{first}{second}", "t", domain, (Message("user", "q"),), chosen, rejected
                    )
                    items.append(Comparison(pair, domain, f"{domain}/{number}", domain, None, first, second))
    return items


def groups(losers: int = 3, count: int = 5) -> list[Comparison]:
    """RMB best-of-N groups."""
    path = "BoN_set/Helpfulness/Chat/Discussion"
    return [
        comparison(group * losers + loser, subset=path, item=f"g{group}", group=f"{group}")
        for group in range(count)
        for loser in range(losers)
    ]


def test_a_judge_that_always_says_a() -> None:
    result = figures(judged(find("pairs"), PAIRS, always_a))
    assert (value(result, "accuracy"), value(result, "flip_rate"), value(result, "share_a")) == (0.5, 1.0, 1.0)
    assert (value(result, "consistent_accuracy"), value(result, "parse_rate")) == (0.0, 1.0)
    assert result["overall"]["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": 400}
    assert result["official"] == {"domains": {"all": 0.5}, "accuracy": 0.5}
    # In one order only, it is what the order makes of it.
    first = figures(judged(find("pairs"), PAIRS, always_a, orders="chosen_first"))
    second = figures(judged(find("pairs"), PAIRS, always_a, orders="chosen_second"))
    assert (value(first, "accuracy"), value(second, "accuracy"), value(first, "flip_rate")) == (1.0, 0.0, None)


def test_position_alone_on_each_benchmark() -> None:
    matrix = figures(judged(find("rm_bench"), styled(), always_a), "rm_bench")
    assert matrix["matrix"]["cells"] == [[0.5] * 3] * 3
    assert (matrix["official"]["average"], matrix["matrix"]["hard_minus_easy"]) == (0.5, 0.0)
    # Three losers, a fair coin for each order: one group in eight; and never with one fixed order.
    best = figures(judged(find("rmb"), groups(3), always_a), "rmb")
    assert best["official"]["bon_helpfulness"] == 0.125
    assert best["official_ci"]["bon_helpfulness"] == [0.125, 0.125]
    bench = figures(judged(find("judgebench"), PAIRS, always_a), "judgebench")
    assert bench["official"] == {"accuracy": 0.0, "consistent_accuracy": 0.0}
    assert value(bench, "accuracy") == 0.5


def test_a_judge_of_length() -> None:
    result = figures(judged(find("pairs"), PAIRS, longer))
    assert (value(result, "accuracy_better_shorter"), value(result, "accuracy_better_longer")) == (0.0, 1.0)
    assert (value(result, "accuracy"), value(result, "flip_rate"), value(result, "share_a")) == (0.5, 0.0, 0.5)
    matrix = figures(judged(find("rm_bench"), styled(), longer), "rm_bench")
    # The better response is a character longer than the worse one of its style.
    assert matrix["matrix"]["styles"] == ["concise", "detailed", "markdown"]
    assert matrix["matrix"]["cells"] == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert {key: matrix["official"][key] for key in ("easy", "normal", "hard")} == {"easy": 1, "normal": 1, "hard": 0}
    assert (matrix["matrix"]["hard_minus_easy"], matrix["matrix"]["hard_minus_easy_ci"]) == (-1.0, [-1.0, -1.0])
    assert matrix["official_ci"]["hard"] == [0.0, 0.0]


def test_a_fair_coin() -> None:
    """Every interval holds what a coin has: 1/2, both orders right 1/4, and a flip every other time."""
    result = figures(judged(find("pairs"), PAIRS, fair_coin(3)))
    expected = {"accuracy": 0.5, "consistent_accuracy": 0.25, "flip_rate": 0.5, "share_a": 0.5}
    expected |= {"accuracy_better_shorter": 0.5, "accuracy_better_longer": 0.5}
    for rate, truth in expected.items():
        part = result["overall"][rate]
        assert part["low"] <= truth <= part["high"], rate
    # Two independent judgments per pair, 200 pairs: 1.96 * sqrt(0.25 / 400) = 0.049 each way.
    part = result["overall"]["accuracy"]
    assert (part["high"] - part["low"]) / 2 == pytest.approx(0.049, abs=0.012)


def test_a_perfect_judge() -> None:
    result = figures(judged(find("pairs"), PAIRS, perfect))
    assert (value(result, "accuracy"), value(result, "consistent_accuracy"), value(result, "flip_rate")) == (1, 1, 0)
    for name, items in (("rmb", groups()), ("judgebench", PAIRS), ("rm_bench", styled())):
        official = figures(judged(find(name), items, perfect), name)["official"]
        assert official.get("accuracy", official.get("average")) == 1.0


def test_a_judge_without_verdicts_scores_what_each_official_rule_says() -> None:
    result = figures(judged(find("pairs"), PAIRS, silent))
    assert (value(result, "accuracy"), value(result, "flip_rate"), result["unread"]) == (0.0, None, {"none_found": 400})
    assert result["unread_score"] == 0.0
    assert result["calibration"] == {"verdict": None, "votes": None}
    assert result["modes"]["reference"] == {"accuracy": 0.0, "parse_rate": 0.0}
    # JudgeBench counts nothing for it: right in one order and silent in the other is right.
    half = judged(find("judgebench"), PAIRS, lambda item: perfect(item) if item.label == "A" else silent(item))
    assert figures(half, "judgebench")["official"] == {"accuracy": 1.0, "consistent_accuracy": 0.0}


def test_three_of_four_votes_and_right_three_times_of_four() -> None:
    """Calibrated: where three votes of four agree, their side is right in three comparisons of four."""

    def judge(item: Judgment) -> str:
        majority_right = int(item.comparison.item) % 4 != 0
        agrees = item.vote < 3
        return answer(item.label if majority_right == agrees else other(item.label))

    result = figures(judged(find("pairs"), PAIRS, judge, votes=4))
    assert value(result, "vote_accuracy") == 0.75
    assert result["official"]["accuracy"] == 0.75
    assert value(result, "accuracy") == 0.75 * 0.75 + 0.25 * 0.25
    votes = result["calibration"]["votes"]
    assert (votes["n"], votes["confidence"], votes["accuracy"]) == (400, 0.75, 0.75)
    assert votes["ece"] == pytest.approx(0.0, abs=1e-12)
    assert votes["brier"] == pytest.approx(0.75 * 0.25**2 + 0.25 * 0.75**2, abs=1e-12)
    assert [(part["low"], part["high"], part["n"]) for part in votes["bins"]] == [(0.7, 0.8, 400)]


def test_votes_that_tie_count_half_and_silent_votes_do_not_count() -> None:
    def judge(item: Judgment) -> str:
        return [answer(item.label), answer(other(item.label)), silent(item)][item.vote]

    result = figures(judged(find("pairs"), PAIRS, judge, votes=3))
    assert (value(result, "vote_accuracy"), value(result, "accuracy")) == (0.5, pytest.approx(1 / 3))
    assert result["official"]["accuracy"] == 0.5
    # A tie is no win: no best-of-N group is right.
    assert figures(judged(find("rmb"), groups(), judge, votes=3), "rmb")["official"]["bon_helpfulness"] == 0.0


def test_confidence_of_the_verdict_token() -> None:
    def rows(confidence: float) -> list[dict[str, Any]]:
        return [
            row(item, answer(item.label if number % 4 else other(item.label)), math.log(confidence))
            for number in range(200)
            for item in [Judgment(find("pairs"), "pairs", comparison(number), "chosen_first", 0, (1,), "hash")]
        ]

    sure, modest = (figures(rows(confidence))["calibration"]["verdict"] for confidence in (1.0, 0.75))
    assert (sure["ece"], sure["brier"]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert sure["ece_ci"][0] < 0.25 < sure["ece_ci"][1]
    assert (modest["ece"], modest["brier"]) == (pytest.approx(0, abs=1e-9), pytest.approx(0.1875))


def test_what_was_too_long_to_judge_is_counted_and_not_right() -> None:
    rows = judged(find("pairs"), PAIRS[:3], perfect)
    judgment = Judgment(find("pairs"), "pairs", PAIRS[3], "chosen_first", 0, (1,) * 9000, "hash")
    result = figures([*rows, not_judged(judgment, {"model": "m", "weights": "w", "engine": {}})])
    assert (value(result, "accuracy"), result["unread"]) == (pytest.approx(6 / 7), {TOO_LONG: 1})
    assert result["official"]["accuracy"] == pytest.approx(6 / 7)
