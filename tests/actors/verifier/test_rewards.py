"""Rewards against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from actors.messages import Trace
from actors.verifier.rewards import RewardError, check_weights, components, score

GOOD = "<type>Reasoning</type><solution>3</solution><eval>match 3 A</eval><answer>[[A]]</answer>"


def trace(text: str, finish_reason: str = "stop") -> Trace:
    """A trace of three tokens with this text."""
    return Trace(
        prompt_uid="p7/chosen_first",
        sample=0,
        token_ids=np.arange(3, dtype=np.int32),
        logprobs=np.zeros(3, np.float32),
        text=text,
        finish_reason=finish_reason,  # type: ignore[arg-type]
        versions=np.zeros(3, np.int32),
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
    scored = score(trace(text), label)  # type: ignore[arg-type]
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
    scored = score(trace(text), label, {"verdict": 1.0, "format": 0.25})  # type: ignore[arg-type]
    assert scored.reward == reward
    assert scored.parts == parts


def test_a_component_of_weight_zero_is_reported_and_not_rewarded() -> None:
    scored = score(trace(GOOD), "A", {"verdict": 2.0, "format": 0.0})
    assert scored.reward == 2.0
    assert scored.parts == {"verdict": 1.0, "format": 1.0}


def test_the_mode_decides_what_is_rewarded_and_the_length_limit_is_the_cause() -> None:
    quoted = trace("<eval>it says <answer>[[A]]</answer>", "length")
    assert score(quoted, "A", mode="paper").reward == 1.0
    strict = score(quoted, "A", mode="strict")
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
    with pytest.raises(RewardError, match=message):
        score(trace(GOOD), "A", weights)


def test_a_label_that_is_no_side_names_the_prompt() -> None:
    with pytest.raises(RewardError, match="'p7/chosen_first' is 'C'"):
        score(trace(GOOD), "C")  # type: ignore[arg-type]


def test_the_registry_cannot_be_changed_from_outside() -> None:
    components()["mine"] = lambda *_: 1.0
    assert set(components()) == {"verdict", "format"}
