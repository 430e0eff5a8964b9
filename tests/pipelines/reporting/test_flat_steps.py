"""A warning where nothing is learned: when it comes, and what it takes for the cause."""

from __future__ import annotations

import pytest

from pipelines.reporting.flat_steps import FlatSteps, is_flat, likely_causes

FLAT = {"equal_reward_groups": 1.0, "reward": 1.0, "reward_std": 0.0, "accuracy": 1.0, "parse_rate": 1.0}
USEFUL = FLAT | {"equal_reward_groups": 0.9, "accuracy": 0.7, "reward_std": 0.5, "optimizer_steps": 1.0}


def test_the_warning_comes_once_a_stretch() -> None:
    flat = FlatSteps(3)
    said = [flat.after(metrics) for metrics in (FLAT, FLAT, USEFUL, FLAT, FLAT, FLAT, FLAT, USEFUL, FLAT, FLAT, FLAT)]
    assert [index for index, text in enumerate(said) if text] == [5, 10]
    assert "last 3 steps" in (said[5] or "")


def test_nought_never_warns() -> None:
    assert not any(FlatSteps(0).after(FLAT) for _ in range(10))


@pytest.mark.parametrize(
    ("metrics", "flat"),
    [
        (FLAT, True),
        (USEFUL, False),
        (USEFUL | {"optimizer_steps": 0.0}, True),
        ({"equal_reward_groups": 0.0, "generation_failures": 32.0}, True),
        ({"loss": 1.0}, False),  # distillation has no rewards
    ],
)
def test_what_is_flat(metrics: dict[str, float], flat: bool) -> None:
    assert is_flat(metrics) is flat


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"parse_rate": 0.0, "accuracy": 0.0, "parse_failures/none_found": 8.0},
            "no verdict could be read (most often: none found)",
        ),
        ({"parse_rate": 0.0, "truncated": 1.0}, "model.max_response_tokens"),
        ({"accuracy": 1.0}, "too easy"),
        ({"accuracy": 0.0}, "every verdict is wrong"),
        ({"accuracy": 0.5, "reward_std": 0.0}, "algorithm.reward"),
        ({"accuracy": 0.5, "reward_std": 1.0, "entropy": 0.001}, "entropy near 0"),
        ({"accuracy": 0.5, "reward_std": 1.0, "entropy": 0.5}, "algorithm.samples"),
    ],
)
def test_the_cause_is_taken_from_the_numbers(metrics: dict[str, float], said: str) -> None:
    assert said in likely_causes(FLAT | metrics)


def test_without_a_scored_trace_the_failures_are_pointed_to() -> None:
    assert "generation_failures" in likely_causes({"equal_reward_groups": 0.0})
