"""Rewards of groups: schedules within a budget, equal for equal groups, and what is no reward."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engines import RULE, ScriptedEngines, answers, judge_of, longer

from pipelines.data.schema import DataError
from pipelines.judgment.decision import PAIRWISE
from pipelines.judgment.ranking import Group
from pipelines.judgment.rewards import Rewards, reward_groups, schedule
from pipelines.judgment.tournaments import most_calls

QWEN = FAMILIES["qwen2_5"]()
Script = Callable[[str, int], str | None]


def rewarded(responses: Sequence[str], script: Script = longer, budget: int = 0, rule: Any = RULE) -> Rewards:
    judge = judge_of(ScriptedEngines(QWEN, script), rule)
    (found,) = asyncio.run(reward_groups(partial(judge.answers, PAIRWISE), [Group("g", "q", tuple(responses))], budget))
    return found


def test_the_mean_of_the_scores_against_those_met() -> None:
    # Three different ones, everyone meets everyone: two wins, one, none; equal ones share.
    found = rewarded(["xx", "xxxx", "x", "xx"])
    assert (found.rewards, found.calls) == ((0.5, 1.0, 0.0, 0.5), 3)


@given(st.integers(2, 40), st.integers(0, 400))
def test_a_schedule_stays_within_its_budget_where_a_circle_fits(n: int, budget: int) -> None:
    calls = most_calls(*_named(schedule(n, budget), n))
    assert calls <= max(budget or 2 * n, n)
    if n * (n - 1) // 2 <= (budget or 2 * n):
        assert calls == n * (n - 1) // 2


def _named(plan: tuple[Any, int], n: int) -> tuple[Any, int, int]:
    return plan[0], n, plan[1]


def noisy(text: str, vote: int) -> str:
    """Of no order at all, but a function of the prompt."""
    first, second = answers(text)
    return f"<answer>[[{random.Random(f'{first}/{second}').choice('AB')}]]</answer>"


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=12), st.randoms(), st.integers(0, 30))
def test_the_order_of_a_group_moves_no_reward(responses: list[str], rng: random.Random, budget: int) -> None:
    """Of a judge that is not even transitive, on circles whose neighbours would depend on the order."""
    shuffled = responses[:]
    rng.shuffle(shuffled)
    one, other = rewarded(responses, noisy, budget), rewarded(shuffled, noisy, budget)
    assert dict(zip(responses, one.rewards, strict=True)) == dict(zip(shuffled, other.rewards, strict=True))
    assert one.calls == other.calls
    assert all(reward is not None and 0 <= reward <= 1 for reward in one.rewards)


def test_an_empty_response_loses_without_being_judged() -> None:
    assert rewarded(["xx", "", "x", " \n"]).rewards == (1.0, 0.0, 0.0, 0.0)
    assert rewarded(["xx", ""]).rewards == (1.0, 0.0)
    assert rewarded(["", " "]).rewards == (0.5, 0.5)


def test_one_response_needs_no_judge() -> None:
    for responses in (["x"], ["x", "x "]):
        found = rewarded(responses)
        assert (set(found.rewards), found.calls) == ({0.5}, 0)


def test_what_was_not_judged_has_no_reward() -> None:
    long = "x " * 200
    found = rewarded(["xx", "xxx", long], rule=replace(RULE, max_prompt_tokens=120))
    assert found.rewards == (0.0, 1.0, None)
    assert found.failures == {"prompt_too_long": 4}
    silent = rewarded(["x", "y"], lambda text, vote: "both are fine")
    assert silent.rewards == (None, None)
    assert not silent.failed


def test_a_failed_engine_leaves_the_whole_group_without_rewards() -> None:
    """With one comparison missing, the others would have other rewards than the same group at a good time."""
    found = rewarded(["x", "xx", "xxx"], lambda text, vote: None if "A xx A" in text else longer(text))
    assert found.rewards == (None, None, None)
    assert found.failed


def test_groups_of_several_sizes_are_asked_together_and_kept_apart() -> None:
    engines = ScriptedEngines(QWEN, longer)
    groups = [Group(str(n), f"q{n}", tuple("x" * length for length in range(1, n + 1))) for n in (1, 2, 9, 3)]
    found = asyncio.run(reward_groups(partial(judge_of(engines).answers, PAIRWISE), groups))
    assert [len(one.rewards) for one in found] == [1, 2, 9, 3]
    assert found[3].rewards == (0.0, 0.5, 1.0)
    assert found[2].calls == 18


def test_what_is_no_group_is_refused() -> None:
    for responses, question, said in (
        ((), "q", "no responses"),
        (("x",), "", "empty"),
        (("\ud800", "x"), "q", "surrog"),
    ):
        judge = judge_of(ScriptedEngines(QWEN, longer))
        with pytest.raises(DataError, match=said):
            asyncio.run(reward_groups(partial(judge.answers, PAIRWISE), [Group("g", question, responses)]))
