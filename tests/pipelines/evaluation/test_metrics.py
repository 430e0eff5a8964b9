"""Evaluation numbers against judges whose scores are known by hand."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Order, Side, Verdict
from actors.verifier.trace import read_verdict
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.metrics import summarise

ORDERS: tuple[tuple[Order, Side], ...] = (("chosen_first", "A"), ("chosen_second", "B"))


def judged(
    pair_id: str,
    order: Order,
    text: str,
    *,
    domain: str = "Chat",
    tokens: int = 10,
    finish: str = "stop",
    extras: Mapping[str, bool | None] | None = None,
) -> JudgedComparison:
    """A comparison read in paper mode. A text of one letter stands for that letter's full answer."""
    text = f"<answer>[[{text}]]</answer>" if text in ("A", "B") else text
    return JudgedComparison(
        pair_id=pair_id,
        order=order,
        label=dict(ORDERS)[order],
        domain=domain,
        verdict=read_verdict(text, "paper", truncated=finish == "length"),
        tokens=tokens,
        finish_reason=finish,  # type: ignore[arg-type]
        text=text,
        extras=extras or {},
    )


def judge(rule: Callable[[int, Side], str], pairs: int = 10) -> list[JudgedComparison]:
    """Both orders of ``pairs`` pairs, judged by ``rule(pair, better side)``."""
    return [judged(f"p{pair}", order, rule(pair, label)) for pair in range(pairs) for order, label in ORDERS]


def test_a_judge_that_always_says_a() -> None:
    summary = summarise(judge(lambda _, __: "A"))
    expected = {
        "n": 10, "comparisons": 20, "accuracy": 0.5, "consistent_accuracy": 0.0, "flip_rate": 1.0,
        "swap_consistency": 0.0, "share_a": 1.0, "parse_rate": 1.0, "strict_parse_rate": 1.0, "mean_tokens": 10.0,
        "accuracy_ci": [0.5, 0.5], "parse_failures": {}, "extras": {},
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert set(summary) == {*expected, "by_order", "consistent_accuracy_ci", "by_domain"}
    assert set(summary["by_domain"]["Chat"]) == set(summary) - {"by_domain"}
    # It is right wherever the better response comes first.
    assert [summary["by_order"][order]["accuracy"] for order in ("chosen_first", "chosen_second")] == [1.0, 0.0]
    assert summary["consistent_accuracy_ci"] == [0.0, 0.0]


def test_a_perfect_judge() -> None:
    summary = summarise(judge(lambda _, label: label))
    assert (summary["accuracy"], summary["consistent_accuracy"], summary["flip_rate"]) == (1.0, 1.0, 0.0)
    assert (summary["share_a"], summary["swap_consistency"], summary["accuracy_ci"]) == (0.5, 1.0, [1.0, 1.0])


def test_a_judge_that_is_consistently_wrong_does_not_flip() -> None:
    summary = summarise(judge(lambda _, label: "B" if label == "A" else "A"))
    assert (summary["accuracy"], summary["consistent_accuracy"], summary["flip_rate"]) == (0.0, 0.0, 0.0)


def test_a_judge_that_never_says_anything_readable() -> None:
    summary = summarise(judge(lambda _, __: "hm"))
    assert (summary["accuracy"], summary["consistent_accuracy"], summary["parse_rate"]) == (0.0, 0.0, 0.0)
    assert (summary["flip_rate"], summary["swap_consistency"], summary["share_a"]) == (None, None, None)
    assert summary["parse_failures"] == {"none_found": 20}


@pytest.mark.slow
def test_a_judge_that_tosses_a_coin() -> None:
    coin = random.Random(0)
    summary = summarise(judge(lambda _, __: coin.choice("AB"), pairs=4000))
    assert summary["accuracy"] == pytest.approx(0.5, abs=0.02)
    assert summary["consistent_accuracy"] == pytest.approx(0.25, abs=0.03)
    assert summary["flip_rate"] == pytest.approx(0.5, abs=0.03)


def mixed() -> list[JudgedComparison]:
    """Four pairs: right twice, flipped, half unreadable, wrong twice."""
    return [
        judged("right", "chosen_first", "A", tokens=10, extras={"solution_correct": True}, domain="Reasoning"),
        judged("right", "chosen_second", "B", tokens=20, extras={"solution_correct": False}, domain="Reasoning"),
        judged("flips", "chosen_first", "A", tokens=30, extras={"true_first_rubric": True}),
        judged("flips", "chosen_second", "A", tokens=40, extras={"true_first_rubric": None}),
        judged("half", "chosen_first", "<answer>[[A]]</answer>!", tokens=50, extras={"true_first_rubric": True}),
        judged("half", "chosen_second", "<eval>long", tokens=60, finish="length", extras={"true_first_rubric": False}),
        judged("wrong", "chosen_first", "B", tokens=70),
        judged("wrong", "chosen_second", "A", tokens=80),
    ]


def test_a_mixture_by_hand() -> None:
    summary = summarise(mixed())
    assert (summary["n"], summary["comparisons"]) == (4, 8)
    assert summary["accuracy"] == 4 / 8
    assert summary["consistent_accuracy"] == 1 / 4
    assert summary["flip_rate"] == 1 / 3
    assert summary["swap_consistency"] == 1 - 1 / 3
    assert summary["parse_rate"] == 7 / 8
    assert summary["strict_parse_rate"] == 6 / 8
    assert summary["share_a"] == 5 / 7
    assert summary["mean_tokens"] == 45.0
    assert summary["parse_failures"] == {"truncated": 1}
    assert summary["extras"] == {"solution_correct": 1 / 2, "true_first_rubric": 2 / 3}


def test_domains_have_the_same_keys_and_numbers_of_their_own() -> None:
    summary = summarise(mixed())
    assert list(summary["by_domain"]) == ["Chat", "Reasoning"]
    chat, reasoning = summary["by_domain"]["Chat"], summary["by_domain"]["Reasoning"]
    assert set(chat) == set(reasoning) == set(summary) - {"by_domain"}
    assert (chat["n"], chat["accuracy"], chat["flip_rate"]) == (3, 2 / 6, 1 / 2)
    assert (reasoning["n"], reasoning["accuracy"], reasoning["consistent_accuracy"]) == (1, 1.0, 1.0)
    assert reasoning["extras"] == {"solution_correct": 1 / 2, "true_first_rubric": None}
    json.dumps(summary, allow_nan=False)


def test_pairs_judged_in_one_order_count_in_accuracy_alone() -> None:
    summary = summarise([judged("p", "chosen_first", "A"), judged("q", "chosen_second", "A")])
    assert (summary["accuracy"], summary["n"], summary["comparisons"]) == (0.5, 2, 2)
    assert (summary["consistent_accuracy"], summary["flip_rate"]) == (None, None)


def test_the_interval_is_seeded_and_agrees_with_all_resamples_counted() -> None:
    pairs = judge(lambda pair, label: label if pair < 2 else "A", pairs=3)
    rights = [2, 2, 1]
    exact = sorted(sum(draw) / 6 for draw in itertools.product(rights, repeat=3))
    low, high = exact[int(0.025 * 27)], exact[int(0.975 * 27)]
    assert (low, high) == (0.5, 1.0)
    assert summarise(pairs, resamples=20_000)["accuracy_ci"] == [low, high]
    wide = judge(lambda pair, label: label if pair % 3 else "A", pairs=200)
    first, again, other = (summarise(wide, seed=seed)["accuracy_ci"] for seed in (1, 1, 2))
    assert first == again != other


def test_the_interval_has_the_width_of_the_binomial() -> None:
    low, high = summarise(judge(lambda pair, label: label if pair % 2 else "?", pairs=400))["accuracy_ci"]
    # 400 pairs, all right or all wrong with probability 1/2: standard error sqrt(0.25 / 400) = 0.025.
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        ([], "nothing was judged"),
        ([judged("p", "chosen_first", "A")] * 2, "'p' is judged twice in order 'chosen_first'"),
        (
            [judged("p", "chosen_first", "A"), judged("p", "chosen_second", "A", domain="Reasoning")],
            "'p' is in two domains: 'Chat' and 'Reasoning'",
        ),
        (
            [JudgedComparison("p", "chosen_first", "B", "Chat", Verdict("A", None), 1, "stop", "")],
            "'p': label 'B' contradicts order 'chosen_first'",
        ),
    ],
)
def test_comparisons_that_contradict_one_another_are_refused(comparisons: list[JudgedComparison], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(comparisons)


@pytest.mark.slow
@settings(max_examples=60)
@given(verdicts=st.lists(st.tuples(st.sampled_from("AB?"), st.sampled_from("AB?")), min_size=1, max_size=30))
def test_rates_hold_together_for_any_judge(verdicts: list[tuple[str, str]]) -> None:
    comparisons = judge(lambda pair, label: verdicts[pair][label == "B"], pairs=len(verdicts))
    summary = summarise(comparisons, resamples=50)
    n = len(verdicts)
    assert summary["accuracy"] == sum((a == "A") + (b == "B") for a, b in verdicts) / (2 * n)
    assert summary["consistent_accuracy"] == sum(pair == ("A", "B") for pair in verdicts) / n
    readable = [pair for pair in verdicts if "?" not in pair]
    flips = sum(a == b for a, b in readable)
    assert summary["flip_rate"] == (flips / len(readable) if readable else None)
    assert summary["consistent_accuracy"] <= summary["accuracy"] <= summary["parse_rate"]
    assert sum(summary["parse_failures"].values()) == round((1 - summary["parse_rate"]) * 2 * n)
    assert summary == summarise(comparisons[::-1], resamples=50)
