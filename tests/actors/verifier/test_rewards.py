"""Rewards against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.messages import Prompt, ScoredGroup, Side, Trace
from actors.verifier.rewards import (
    RewardError,
    RewardRule,
    check_weights,
    compares_traces,
    components,
    failed,
    is_right,
    score,
    with_group_components,
)

GOOD = "<type>Reasoning</type><solution>3</solution><eval>match 3 A</eval><answer>[[A]]</answer>"


def trace(text: str, finish_reason: str = "stop", length: int = 3, sample: int = 0) -> Trace:
    """A trace of three tokens with this text."""
    return Trace(
        prompt_uid="p7/chosen_first",
        sample=sample,
        token_ids=np.arange(length, dtype=np.int32),
        logprobs=np.zeros(length, np.float32),
        text=text,
        finish_reason=finish_reason,  # type: ignore[arg-type]
        versions=np.zeros(length, np.int32),
    )


@pytest.mark.parametrize(
    ("text", "label", "reward"),
    [
        (GOOD, "A", 1.0),
        (GOOD, "B", -1.0),
        ("<answer>[[B]]</answer>", "B", 1.0),
        ("", "A", -1.0),
        ("no verdict", "A", -1.0),
        (GOOD + "<answer>[[B]]</answer>", "A", -1.0),
    ],
)
def test_the_papers_reward(text: str, label: str, reward: float) -> None:
    scored = score(trace(text), label, RewardRule())  # type: ignore[arg-type]
    assert scored.reward == reward
    assert scored.parts == {"verdict": reward}


@pytest.mark.parametrize(
    ("text", "label", "reward", "parts"),
    [
        (GOOD, "A", 1.25, {"verdict": 1.0, "format": 1.0}),
        (GOOD, "B", -0.75, {"verdict": -1.0, "format": 1.0}),
        ("<answer>[[A]]</answer>", "A", 1.0, {"verdict": 1.0, "format": 0.0}),
        ("?", "A", -1.0, {"verdict": -1.0, "format": 0.0}),
    ],
)
def test_components_are_weighted_and_reported(text: str, label: str, reward: float, parts: dict[str, float]) -> None:
    scored = score(trace(text), label, RewardRule({"verdict": 1.0, "format": 0.25}))  # type: ignore[arg-type]
    assert scored.reward == reward
    assert scored.parts == parts


def test_a_component_of_weight_zero_is_reported_and_not_rewarded() -> None:
    scored = score(trace(GOOD), "A", RewardRule({"verdict": 2.0, "format": 0.0}))
    assert scored.reward == 2.0
    assert scored.parts == {"verdict": 1.0, "format": 1.0}


def test_the_mode_decides_what_is_rewarded_and_the_length_limit_is_the_cause() -> None:
    quoted = trace("<eval>it says <answer>[[A]]</answer>", "length")
    assert score(quoted, "A", RewardRule(mode="paper")).reward == 1.0
    strict = score(quoted, "A", RewardRule(mode="strict"))
    assert (strict.reward, strict.verdict.cause) == (-1.0, "truncated")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"verdct": 1.0}, "'verdct'; did you mean 'verdict'"),
        ({"verdict": 1.0, "humour": 1.0}, "'humour': choose from verdict, format"),
        ({}, "at least one of verdict, format"),
        ({"verdict": math.nan}, "'verdict' is nan"),
        ({"format": "1"}, "'format' is '1'"),
        ({"format": True}, "'format' is True"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        check_weights(weights)


def test_a_label_that_is_no_side_names_the_prompt() -> None:
    with pytest.raises(RewardError, match="'p7/chosen_first' is 'C'"):
        score(trace(GOOD), "C", RewardRule())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (["format"], "'format' has the name of a built-in"),
        (["mine"], r"'mine' has no weight: set algorithm.reward.mine"),
    ],
)
def test_functions_need_a_name_and_a_weight_of_their_own(functions: list[str], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        check_weights({"verdict": 1.0, "format": 1.0}, functions)
    check_weights({"verdict": 1.0, "mine": 0}, ["mine"])


@pytest.mark.parametrize(
    ("length", "finish_reason", "penalty"),
    [(70, "stop", 0), (80, "stop", 0), (85, "stop", -0.25), (100, "stop", -1), (100, "length", -1), (9, "length", -1)],
)
def test_overlong_by_hand(length: int, finish_reason: str, penalty: float) -> None:
    # Of 100 tokens the last 20 are the buffer.
    rule = RewardRule({"verdict": 1.0, "overlong": 2.0}, max_tokens=100, overlong_buffer=0.2)
    scored = score(trace(GOOD, finish_reason, length), "A", rule)
    assert scored.parts == {"verdict": 1.0, "overlong": pytest.approx(penalty)}
    assert scored.reward == pytest.approx(1 + 2 * penalty)


def group(order: str, label: Side, verdicts: str, rule: RewardRule, lengths: tuple[int, ...] = ()) -> ScoredGroup:
    prompt = Prompt(f"p7/{order}", "p7", order, label, "chat", (1, 2))  # type: ignore[arg-type]
    sizes = lengths or (3,) * len(verdicts)
    traces = [
        score(trace(f"<answer>[[{side}]]</answer>", "stop", size, index), label, rule)
        for index, (side, size) in enumerate(zip(verdicts, sizes, strict=True))
    ]
    return ScoredGroup(prompt, tuple(traces))


def test_swap_consistency_needs_both_orders_right() -> None:
    rule = RewardRule({"verdict": 0.5, "swap_consistency": 1.0})
    first, second = with_group_components(
        [group("chosen_first", "A", "AAB", rule), group("chosen_second", "B", "BAAA", rule)], rule
    )
    # A quarter of the other order's traces is right: 2/4 - 1; two thirds of the first's: 4/3 - 1. Wrong ones have -1.
    assert [item.parts["swap_consistency"] for item in first.traces] == pytest.approx([-0.5, -0.5, -1])
    assert [item.parts["swap_consistency"] for item in second.traces] == pytest.approx([1 / 3, -1, -1, -1])
    assert [item.reward for item in first.traces] == pytest.approx([0, 0, -1.5])
    full, _ = with_group_components(
        [group("chosen_first", "A", "AB", rule), group("chosen_second", "B", "BB", rule)], rule
    )
    assert [item.parts["swap_consistency"] for item in full.traces] == [1, -1]


def test_swap_consistency_without_the_other_order_is_a_failure_and_no_reward() -> None:
    rule = RewardRule({"swap_consistency": 1.0})
    [alone] = with_group_components([group("chosen_first", "A", "AB", rule)], rule)
    assert alone.traces == ()
    assert [(failure.sample, failure.cause) for failure in alone.unscored] == [(0, "no_partner"), (1, "no_partner")]
    empty = failed(group("chosen_second", "B", "BB", rule), "mine", "timeout", "")
    first, second = with_group_components([group("chosen_first", "A", "AB", rule), empty], rule)
    assert [failure.cause for failure in first.unscored] == ["no_partner"] * 2
    assert [failure.cause for failure in second.unscored] == ["timeout"] * 2


def test_length_by_hand() -> None:
    rule = RewardRule({"verdict": 1.0, "length": 1.0})
    [compared] = with_group_components([group("chosen_first", "A", "AAABB", rule, (10, 15, 20, 10, 20))], rule)
    # 1/2 - (length - 10) / 10; a wrong one gains nothing by being short.
    assert [item.parts["length"] for item in compared.traces] == [0.5, 0.0, -0.5, 0.0, -0.5]
    assert [item.reward for item in compared.traces] == [1.5, 1.0, 0.5, -1.0, -1.5]
    [equal] = with_group_components([group("chosen_first", "A", "AB", rule)], rule)
    assert [item.parts["length"] for item in equal.traces] == [0, 0]


def test_which_components_compare_traces() -> None:
    assert components() == ("verdict", "format", "overlong", "length", "swap_consistency")
    assert not compares_traces({"verdict": 1, "format": 1, "overlong": 1})
    assert compares_traces({"verdict": 1, "length": 0})


def rated(label: Side, *ratings: int | None, uid: str = "p/x") -> ScoredGroup:
    """Traces that rate one response of a pair."""
    rule = RewardRule()
    texts = ["?" if rating is None else f"<answer>[[{rating}]]</answer>" for rating in ratings]
    scored = [score(trace(text, sample=at), label, rule, "pointwise", 1) for at, text in enumerate(texts)]
    assert all(item.parts == {} for item in scored), "a rating alone earns nothing"
    prompt = Prompt(uid, "p", "chosen_first" if label == "A" else "chosen_second", label, "chat", (1,), "pointwise", 1)
    return ScoredGroup(prompt, tuple(scored))


def test_ratings_are_rewarded_by_the_order_of_the_pair() -> None:
    """Worked by hand: 2 x the share of the other response's ratings on the right side - 1."""
    better, worse = rated("A", 9, 5, 3, None), rated("B", 5, 2, None, 4)
    first, second = with_group_components([better, worse], RewardRule())
    # Against 5, 2, unread, 4: 9 is above 3.5 of 4, 5 above 2.5 (the equal one does not count), 3 above 1.5.
    assert [item.reward for item in first.traces] == [0.75, 0.25, -0.25, -1.0]
    # Against 9, 5, 3, unread: 5 is below 1.5 of 4, 2 below 3.5, 4 below 2.5.
    assert [item.reward for item in second.traces] == [-0.25, 0.75, -1.0, 0.25]
    assert [is_right(item, better.prompt) for item in first.traces] == [True, True, False, False]
    assert [item.parts["verdict"] for item in first.traces] == [item.reward for item in first.traces]


def test_equal_ratings_earn_nothing_and_a_lost_partner_is_a_failure() -> None:
    first, second = with_group_components([rated("A", 7, 7), rated("B", 7, 7)], RewardRule())
    assert [item.reward for item in (*first.traces, *second.traces)] == [-1.0] * 4
    alone, _ = with_group_components([rated("A", 7), rated("B")], RewardRule())
    assert alone.traces == ()
    assert [(item.component, item.cause) for item in alone.unscored] == [("verdict", "no_partner")]


@pytest.mark.parametrize(
    ("said", "label", "responses", "reward"),
    [
        ("A > B > C", "A", 3, 1.0),
        ("B > A > C", "A", 3, 0.0),
        ("C > B > A", "A", 3, -1.0),
        ("B > D > C > A", "D", 4, pytest.approx(1 / 3)),
        ("B > A", "B", 2, 1.0),
        ("A > B", "B", 2, -1.0),
        ("A > B", "A", 3, -1.0),
        ("A", "A", 2, -1.0),
    ],
)
def test_an_order_earns_the_share_below_the_better_response(
    said: str, label: Side, responses: int, reward: float
) -> None:
    scored = score(trace(f"<answer>[[{said}]]</answer>"), label, RewardRule(), "listwise", responses)
    assert scored.reward == reward


def test_the_format_is_that_of_the_mode() -> None:
    whole = GOOD.replace("[[A]]", "[[7]]")
    rule = RewardRule({"verdict": 1.0, "format": 1.0})
    assert score(trace(whole), "A", rule, "pointwise", 1).parts == {"format": 1.0}
    assert score(trace(GOOD), "A", rule, "pointwise", 1).parts == {"format": 0.0}
    with pytest.raises(RewardError, match="is 'C': it must be 'A' or 'B'"):
        score(trace(whole), "C", rule, "pointwise", 1)
