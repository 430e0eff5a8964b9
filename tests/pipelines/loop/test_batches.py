"""From scored groups to training sequences: advantages by hand, whole groups, and every drop counted."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest

from actors.messages import (
    GenerationFailure,
    ParseFailure,
    Prompt,
    RewardFailure,
    ScoredGroup,
    ScoredTrace,
    Side,
    Trace,
    TrainingSequence,
    Verdict,
)
from pipelines.config import Algorithm
from pipelines.loop.batches import is_useful, policy_batch
from pipelines.loop.rollouts import RewardsFailed


def scored(uid: str, sample: int, reward: float, **details: Any) -> ScoredTrace:
    length = details.get("length", 2)
    versions = np.array(details.get("versions", [5] * length), np.int32)
    side: Side | None = details.get("side", "A")
    cause: ParseFailure | None = details.get("cause")
    trace = Trace(
        prompt_uid=uid,
        sample=sample,
        token_ids=np.arange(length, dtype=np.int32) + 10 * sample,
        logprobs=np.full(length, -0.5 - sample, np.float32),
        text="text",
        finish_reason=details.get("finish_reason", "stop"),
        versions=versions,
    )
    verdict = Verdict(None, cause) if cause else Verdict(side, None)
    return ScoredTrace(trace, verdict, reward, details.get("parts", {"verdict": reward}))


def group(uid: str, *traces: ScoredTrace, label: Side = "A", failed: int = 0) -> ScoredGroup:
    prompt = Prompt(uid, uid, "chosen_first" if label == "A" else "chosen_second", label, "Chat", (1, 2, 3))
    failures = tuple(GenerationFailure(uid, 100 + index, "engine_error", "") for index in range(failed))
    return ScoredGroup(prompt, traces, failures)


def rewarded(uid: str, *rewards: float, failed: int = 0) -> ScoredGroup:
    return group(uid, *(scored(uid, index, reward) for index, reward in enumerate(rewards)), failed=failed)


def advantages(*groups: ScoredGroup, **algorithm: Any) -> list[float]:
    return [first(item) for item in policy_batch(groups, Algorithm(**algorithm), 1, 5).sequences()]


def first(item: TrainingSequence) -> float:
    """The advantage of a sequence's first token, after a look that it has one for each."""
    assert isinstance(item.advantage, np.ndarray)
    assert item.advantage.dtype == np.float32
    assert item.advantage.shape == item.completion_ids.shape
    return float(item.advantage[0])


def test_advantages_by_hand() -> None:
    # Mean 0, sample variance (1 + 1 + 1 + 1) / 3.
    assert advantages(rewarded("g", 1, 1, -1, -1)) == pytest.approx(
        np.array([1, 1, -1, -1]) / math.sqrt(4 / 3), rel=1e-5
    )
    # Mean 0.5, deviations 0.5 x 3 and -1.5: sample variance (0.75 + 2.25) / 3 = 1.
    assert advantages(rewarded("g", 1, 1, 1, -1)) == pytest.approx([0.5, 0.5, 0.5, -1.5], rel=1e-5)
    assert advantages(rewarded("g", 1, -1, -1), advantage="centred") == pytest.approx([4 / 3, -2 / 3, -2 / 3])


def test_each_group_is_its_own_baseline() -> None:
    both = advantages(rewarded("g", 1, 1, 1, -1), rewarded("h", 100, 98))
    assert both == pytest.approx([0.5, 0.5, 0.5, -1.5, 1 / math.sqrt(2), -1 / math.sqrt(2)], rel=1e-5)


def test_sequences_are_the_traces_tokens() -> None:
    batch = policy_batch([rewarded("g", 1, -1)], Algorithm(), 1, 5)
    first, second = batch.sequences()
    assert first.prompt_ids.tolist() == [1, 2, 3]
    assert (first.completion_ids.tolist(), second.completion_ids.tolist()) == ([0, 1], [10, 11])
    assert second.rollout_logprobs is not None
    assert second.rollout_logprobs.tolist() == [-1.5, -1.5]
    assert batch.tokens == 4


def test_equal_rewards_are_kept_or_dropped_and_counted() -> None:
    groups = [rewarded("g", 1, 1, 1), rewarded("h", -1, -1, -1), rewarded("i", 1, -1, 1), rewarded("j", 1, 1, -1)]
    kept = policy_batch(groups, Algorithm(equal_reward_groups="keep"), 4, 5)
    assert [first(item) for item in kept.sequences()[:6]] == [0.0] * 6
    assert len(kept.sequences()) == 12
    dropped = policy_batch(groups, Algorithm(equal_reward_groups="drop"), 4, 5)
    assert len(dropped.sequences()) == 6
    assert [first(item) for item in dropped.sequences()] == [first(item) for item in kept.sequences()[6:]]
    for batch in (kept, dropped):
        assert batch.metrics["equal_reward_groups"] == 0.5
        assert batch.metrics["reward"] == pytest.approx((3 - 3 + 1 + 1) / 12)
        assert batch.tokens == 24


def test_failures_take_no_part_in_the_mean() -> None:
    with_failures = rewarded("g", 1, 1, 1, -1, failed=3)
    assert advantages(with_failures) == advantages(rewarded("g", 1, 1, 1, -1))
    batch = policy_batch([with_failures, rewarded("h", 1, -1, failed=1)], Algorithm(), 2, 5)
    assert batch.metrics["generation_failures"] == 4
    assert batch.metrics["failed_share"] == 4 / 10
    assert batch.metrics["reward"] == pytest.approx(2 / 6)


def test_short_groups_are_dropped_and_counted() -> None:
    groups = [rewarded("g", 1, failed=2), rewarded("h", failed=3), rewarded("i", 1, -1)]
    batch = policy_batch(groups, Algorithm(), 3, 5)
    assert len(batch.sequences()) == 2
    assert batch.metrics["short_groups"] == 2
    assert batch.metrics["equal_reward_groups"] == 0
    assert batch.metrics["generation_failures"] == 5


def test_a_batch_of_failures_only_has_counts_and_no_means() -> None:
    batch = policy_batch([rewarded("g", failed=2)], Algorithm(), 1, 5)
    assert batch.sequences() == []
    assert batch.tokens == 0
    assert batch.metrics == {
        "generation_failures": 2.0,
        "reward_failures": 0.0,
        "failed_share": 1.0,
        "equal_reward_groups": 0.0,
        "short_groups": 1.0,
    }


def test_mini_batches_hold_whole_groups_in_order() -> None:
    groups = [rewarded(f"g{index}", 1, -1, index) for index in range(5)]
    batch = policy_batch(groups, Algorithm(advantage="centred"), 2, 5)
    assert [len(part) for part in batch.mini_batches] == [6, 6, 3]
    assert [item for part in batch.mini_batches for item in part] == batch.sequences()
    thirds = [first(item) for item in batch.sequences()[2::3]]
    assert thirds == pytest.approx([index - index / 3 for index in range(5)])


def test_dropped_groups_do_not_move_others_to_another_mini_batch() -> None:
    groups = [rewarded("g", 1, 1), rewarded("h", 1, -1), rewarded("i", 1, 1), rewarded("j", -1, -1)]
    batch = policy_batch(groups, Algorithm(equal_reward_groups="drop"), 2, 5)
    assert [len(part) for part in batch.mini_batches] == [2, 0]


def test_staleness_counts_from_the_oldest_token() -> None:
    traces = [
        scored("g", 0, 1, length=3, versions=[5, 5, 5]),
        scored("g", 1, -1, length=3, versions=[3, 4, 5]),
        scored("g", 2, -1, length=2, versions=[4, 5]),
    ]
    metrics = policy_batch([group("g", *traces)], Algorithm(), 1, 5).metrics
    assert metrics["staleness"] == pytest.approx((0 + 2 + 1) / 3)
    assert (metrics["staleness_min"], metrics["staleness_max"]) == (0, 2)
    assert policy_batch([rewarded("g", 1, -1)], Algorithm(), 1, 5).metrics["staleness_max"] == 0


def test_shares_by_hand() -> None:
    first = group(
        "g",
        scored("g", 0, 1, side="A", length=4, parts={"verdict": 1.0, "format": 1.0}),
        scored("g", 1, -1, side="B", length=8, parts={"verdict": -1.0, "format": 0.0}),
    )
    second = group(
        "h",
        scored("h", 0, 1, side="B", length=6, parts={"verdict": 1.0, "format": 1.0}),
        scored(
            "h", 1, -1, cause="truncated", length=10, finish_reason="length", parts={"verdict": -1.0, "format": 0.0}
        ),
        label="B",
    )
    metrics = policy_batch([first, second], Algorithm(), 2, 5).metrics
    assert metrics["accuracy"] == 0.5
    assert (metrics["accuracy/order/chosen_first"], metrics["accuracy/order/chosen_second"]) == (0.5, 0.5)
    assert metrics["accuracy/domain/Chat"] == 0.5
    assert metrics["parse_rate"] == 0.75
    assert metrics["share_a"] == 0.25
    assert metrics["truncated"] == 0.25
    assert metrics["completion_tokens"] == 7
    assert metrics["completion_tokens_max"] == 10
    assert metrics["parse_failures/truncated"] == 1
    assert metrics["reward/verdict"] == 0
    assert metrics["reward/format"] == 0.5
    assert not {f"parse_failures/{cause}" for cause in get_args(ParseFailure) if cause != "truncated"} & set(metrics)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())


def test_denominator_of_the_ratio() -> None:
    groups = [rewarded("g", 1, -1), rewarded("h", -1, 1)]
    from_engine = policy_batch(groups, Algorithm(old_logprobs="rollout"), 1, 5)
    assert not from_engine.needs_old_logprobs
    assert all(item.old_logprobs is item.rollout_logprobs for item in from_engine.sequences())
    left = policy_batch(groups, Algorithm(old_logprobs="learner"), 1, 5)
    assert left.needs_old_logprobs
    renewed = left.with_old_logprobs([np.full(2, -float(index), np.float32) for index in range(4)])
    assert not renewed.needs_old_logprobs
    assert left.needs_old_logprobs
    assert [float(item.old_logprobs[0]) for item in renewed.sequences() if item.old_logprobs is not None] == [
        0,
        -1,
        -2,
        -3,
    ]
    assert [first(item) for item in renewed.sequences()] == [first(item) for item in left.sequences()]
    assert [len(part) for part in renewed.mini_batches] == [2, 2]


def test_baselines_of_other_bundles_by_hand() -> None:
    assert advantages(rewarded("g", 1, -1, -1), advantage="leave_one_out") == pytest.approx([2, -1, -1])
    # Four tokens of 1, two of -1: mean 1/3, variance 8/9. One trace a prompt is enough.
    alone = advantages(rewarded("g", 1), rewarded("h", 1), rewarded("i", -1), advantage="batch_standardised", samples=1)
    assert alone == pytest.approx(np.array([2 / 3, 2 / 3, -4 / 3]) / math.sqrt(8 / 9))
    # Centred 1, -1 and 0, 0, over all tokens: mean 0, variance 1/2.
    both = advantages(rewarded("g", 2, 0), rewarded("h", 1, 1), advantage="centred_batch_standardised")
    assert both == pytest.approx([math.sqrt(2), -math.sqrt(2), 0, 0])


def test_kl_in_the_reward_comes_before_the_advantage_by_hand() -> None:
    def penalise(sequences: Any) -> list[np.ndarray]:
        return [np.array([0.1, 0.3], np.float32) * (index + 1) for index, _ in enumerate(sequences)]

    groups = [rewarded("g", 1, -1)]
    # Sums 0.4 and 0.8, weighed by 0.5: rewards 0.8 and -1.4, mean -0.3.
    batch = policy_batch(groups, Algorithm(advantage="centred", kl_coefficient=0.5), 1, 5, penalise=penalise)
    assert [first(item) for item in batch.sequences()] == pytest.approx([1.1, -1.1])
    assert batch.metrics["kl"] == pytest.approx((0.1 + 0.3 + 0.2 + 0.6) / 4)
    assert batch.metrics["reward"] == 0
    # Token by token 1 - 0.2, 1 - 0.15, -1 - 0.4, -1 - 0.3, less their mean and over their deviation.
    values = np.array([0.8, 0.85, -1.4, -1.3])
    batch = policy_batch(groups, Algorithm(advantage="batch_standardised", kl_coefficient=0.5), 1, 5, penalise=penalise)
    assert np.concatenate([np.asarray(item.advantage) for item in batch.sequences()]) == pytest.approx(
        (values - values.mean()) / values.std(), abs=1e-6
    )


def test_refilled_groups_fill_the_mini_batches_up_to_what_was_wanted() -> None:
    groups = [
        rewarded("g", 1, 1),
        rewarded("h", 1, -1),
        rewarded("i", -1, 1),
        rewarded("j", 1, -1),
        rewarded("k", 1, -1),
    ]
    assert [is_useful(group) for group in groups] == [False, True, True, True, True]
    batch = policy_batch(groups, Algorithm(equal_reward_groups="refill"), 2, 5, wanted=3)
    assert [len(part) for part in batch.mini_batches] == [4, 2]
    assert batch.metrics["equal_reward_groups"] == pytest.approx(1 / 5)
    assert batch.tokens == 20


def test_failed_rewards_are_counted_by_cause_and_never_a_reward() -> None:
    failures = (
        RewardFailure("g", 7, "mine", "timeout", "mine.score gave no answer in 1 s"),
        RewardFailure("g", 8, "mine", "error", "ValueError: no"),
    )
    whole = rewarded("g", 1, -1)
    hit = ScoredGroup(whole.prompt, whole.traces, (), failures)
    batch = policy_batch([hit, rewarded("h", 1, -1)], Algorithm(), 2, 5)
    assert len(batch.sequences()) == 4
    assert (batch.metrics["reward_failures"], batch.metrics["reward"]) == (2, 0)
    assert (batch.metrics["reward_failures/timeout"], batch.metrics["reward_failures/error"]) == (1, 1)
    without = policy_batch([hit, rewarded("h", 1, -1)], Algorithm(), 2, 5, on_failure="drop_group")
    assert len(without.sequences()) == 2
    assert without.metrics["short_groups"] == 1
    with pytest.raises(RewardsFailed, match=r"prompt g: reward component 'mine': timeout: .*on_failure=drop_trace"):
        policy_batch([hit], Algorithm(), 2, 5, on_failure="stop")
