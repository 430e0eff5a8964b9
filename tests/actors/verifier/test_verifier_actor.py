"""The reward verifier as a plain object and as a Ray actor."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import Prompt, ScoredGroup, ScoredTrace, Side, Trace, VerificationRequest
from actors.verifier.actor import RewardVerifier
from actors.verifier.rewards import RewardError, RewardRule


def trace(sample: int, text: str) -> Trace:
    """A trace of two tokens with this text."""
    return Trace(
        prompt_uid="p/chosen_first",
        sample=sample,
        token_ids=np.array([sample, 1], dtype=np.int32),
        logprobs=np.array([-0.5, -0.25], np.float32),
        text=text,
        finish_reason="stop",
        versions=np.array([3, 4], np.int32),
    )


def request(sample: int, text: str, label: Side) -> VerificationRequest:
    return VerificationRequest(trace(sample, text), label, "p", "chosen_first", "chat")


def batch() -> list[VerificationRequest]:
    """Right, wrong, unreadable."""
    return [
        request(0, "<answer>[[A]]</answer>", "A"),
        request(1, "<answer>[[A]]</answer>", "B"),
        request(2, "neither", "A"),
    ]


def scores(verifier: RewardVerifier, requests: list[VerificationRequest]) -> list[ScoredTrace]:
    answers = asyncio.run(verifier.score(requests))
    assert all(isinstance(item, ScoredTrace) for item in answers)
    return [item for item in answers if isinstance(item, ScoredTrace)]


def test_scores_keep_the_order_and_failures_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    verifier = RewardVerifier()
    with caplog.at_level(logging.INFO, logger="actors.verifier.actor"):
        scored = scores(verifier, batch())
    assert [item.reward for item in scored] == [1.0, -1.0, -1.0]
    assert [item.trace.sample for item in scored] == [0, 1, 2]
    assert [item.verdict.side for item in scored] == ["A", "A", None]
    assert [record.message for record in caplog.records] == ["1 of 3 traces without a verdict: none_found 1"]
    assert scores(verifier, []) == []


def test_a_rule_that_cannot_be_used_is_refused_at_the_start() -> None:
    with pytest.raises(RewardError, match="did you mean 'format'"):
        RewardVerifier(RewardRule({"formt": 1.0}))
    with pytest.raises(ValueError, match="choose strict, paper, reference"):
        RewardVerifier(RewardRule(mode="exact"))  # type: ignore[arg-type]


@pytest.mark.ray
def test_as_an_actor_it_scores_like_the_plain_object(cluster: None, tmp_path: Path) -> None:
    import ray

    log_path = tmp_path / "logs" / "verifier.log"
    rule = RewardRule({"verdict": 1.0, "format": 0.5}, "strict")
    actor: Any = ray.remote(RewardVerifier).options(num_cpus=0).remote(rule, None, str(log_path))
    try:
        assert ray.get(actor.ready.remote(), timeout=60) is True
        scored = ray.get(actor.score.remote(batch()), timeout=60)
    finally:
        ray.kill(actor)
    expected = scores(RewardVerifier(rule), batch())
    assert [(item.reward, item.parts, item.verdict) for item in scored] == [
        (item.reward, item.parts, item.verdict) for item in expected
    ]
    np.testing.assert_array_equal(scored[2].trace.token_ids, [2, 1])
    assert (scored[0].trace.min_version, scored[0].trace.max_version) == (3, 4)
    assert "1 of 3 traces without a verdict: none_found 1" in log_path.read_text()


def test_a_pairs_ratings_are_scored_when_both_are_there() -> None:
    """As the loop asks: each trace by itself, then the pair, whose ratings have to rank the chosen response above."""

    def requested(sample: int, text: str, label: Side) -> VerificationRequest:
        order = "chosen_first" if label == "A" else "chosen_second"
        return replace(request(sample, text, label), order=order, judged="pointwise", responses=1)  # type: ignore[arg-type]

    verifier = RewardVerifier()
    texts = {"A": ["<answer>[[8]]</answer>", "<answer>[[2]]</answer>"], "B": ["<answer>[[3]]</answer>", "none"]}
    groups = []
    for label, written in texts.items():
        scored = scores(verifier, [requested(at, text, label) for at, text in enumerate(written)])  # type: ignore[arg-type]
        prompt = Prompt(f"p/{label}", "p", "chosen_first", label, "chat", (1,), "pointwise", 1)  # type: ignore[arg-type]
        groups.append(ScoredGroup(prompt, tuple(scored)))
    better, worse = asyncio.run(verifier.compare(groups))
    assert [item.reward for item in better.traces] == [0.5, -0.5]
    assert [item.reward for item in worse.traces] == [0.0, -1.0]
