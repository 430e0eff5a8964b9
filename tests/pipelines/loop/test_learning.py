"""Learning from a rollout batch: groups given early are learnt once, and nothing else is learnt than without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from configs import configured

from actors.learner.group import LearnerGroup
from actors.learner.settings import PolicySettings
from actors.messages import Prompt, ScoredGroup, ScoredTrace, Trace, TrainingSequence, Verdict
from pipelines.loop.learning import BatchLearning, early_work
from pipelines.loop.rollouts import RolloutBatch


class Recorder:
    """Stands for the learners: notes (first token, advantage) of every sequence of every call."""

    def __init__(self) -> None:
        self.added: list[set[tuple[int, float]]] = []
        self.stepped: list[set[tuple[int, float]]] = []
        self.asked: list[int] = []

    def logprobs(self, sequences: Sequence[TrainingSequence], temperature: float) -> list[np.ndarray]:
        """Minus the first token, so that they tell whose they are."""
        self.asked.append(len(sequences))
        return [np.full(len(item.completion_ids), -float(item.completion_ids[0]), np.float32) for item in sequences]

    def add_policy_gradients(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> None:
        self.added.append(seen(sequences))

    def policy_step(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> dict[str, float]:
        self.stepped.append(seen(sequences))
        for item in sequences:
            assert item.old_logprobs is None or list(item.old_logprobs) == [-item.completion_ids[0]] * 2
        return {"loss": 0.5, "old": float(sum(item.old_logprobs is not None for item in sequences))}


def seen(sequences: Sequence[TrainingSequence]) -> set[tuple[int, float]]:
    return {(int(item.completion_ids[0]), round(float(np.asarray(item.advantage)[0]), 4)) for item in sequences}


def group(number: int, *rewards: float) -> ScoredGroup:
    """Its traces begin with the tokens 10 x number, 10 x number + 1, ..."""
    uid = str(number)
    traces = tuple(
        ScoredTrace(
            Trace(
                *(uid, sample, np.array([10 * number + sample, 0], np.int32), np.zeros(2, np.float32)),
                *("", "stop", np.zeros(2, np.int32)),
            ),
            Verdict("A", None),
            reward,
        )
        for sample, reward in enumerate(rewards)
    )
    return ScoredGroup(Prompt(uid, uid, "chosen_first", "A", "chat", (1,)), traces)


GROUPS = (group(1, 1, -1), group(2, 1, 1), group(3, -1, 1), group(4, 1, -1, -1))


def learning(learners: Recorder, *overrides: str) -> BatchLearning:
    config = configured("recipe=tiny", "rl.prompts_per_step=4", "rl.mini_batch_prompts=4", *overrides)
    return BatchLearning(cast(LearnerGroup, learners), config, config.algorithm, step=0)


def outcome(rollout: RolloutBatch, early: Sequence[Sequence[ScoredGroup]], *overrides: str) -> tuple[Recorder, Any]:
    learners = Recorder()
    work = learning(learners, *overrides)
    for groups in early:
        work.early(groups)
    return learners, work.finish(rollout)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_what_is_learnt_early_and_late_is_the_whole_batch_once(policy: str) -> None:
    rollout, override = RolloutBatch(GROUPS, 1.0, 0.0), f"algorithm.equal_reward_groups={policy}"
    whole, (batch, metrics) = outcome(rollout, [], override)
    parts, (again, metrics_again) = outcome(rollout, [[GROUPS[3]], [GROUPS[1]], [GROUPS[0]]], override)
    assert (whole.added, len(whole.stepped), len(whole.stepped[0])) == ([], 1, 9 if policy == "keep" else 7)
    assert parts.stepped == [seen(batch.sequences()) & {(30, -0.7071), (31, 0.7071)}]
    # A group that teaches nothing is no call to the learners.
    assert len(parts.added) == (3 if policy == "keep" else 2)
    assert set.union(*parts.added, *parts.stepped) == whole.stepped[0]
    assert sum(map(len, parts.added)) + len(parts.stepped[0]) == len(whole.stepped[0])
    assert metrics == metrics_again == {"loss": 0.5, "old": 0.0, "optimizer_steps": 1.0, "kl_coefficient": 0.001}
    assert batch.metrics == again.metrics
    assert batch.metrics["equal_reward_groups"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("mini", [4, 2])
def test_a_prompt_that_occurs_twice_in_a_batch_is_two_groups(mini: int) -> None:
    again = group(1, -1, 1)
    rollout, override = RolloutBatch((*GROUPS[:3], again), 1.0, 0.0), f"rl.mini_batch_prompts={mini}"
    whole, (_, metrics) = outcome(rollout, [], override)
    parts, (_, metrics_again) = outcome(rollout, [[again], [GROUPS[2]]], override)
    assert metrics["optimizer_steps"] == metrics_again["optimizer_steps"]
    assert set.union(*parts.added, *parts.stepped) == set.union(*whole.stepped)
    assert (10, 0.7071) in parts.stepped[0]
    assert (10, -0.7071) in (parts.added or parts.stepped[1:])[0]


@pytest.mark.slow
def test_a_batch_learnt_early_to_its_end_still_steps() -> None:
    parts, (_, metrics) = outcome(RolloutBatch(GROUPS, 1.0, 0.0), [GROUPS])
    assert parts.stepped == [set()]
    assert metrics["optimizer_steps"] == 1


def test_early_groups_that_teach_nothing_leave_nothing_to_step_on() -> None:
    learners, (_, metrics) = outcome(RolloutBatch((GROUPS[1],), 1.0, 0.0), [[GROUPS[1]]])
    assert (learners.added, learners.stepped) == ([], [])
    assert metrics == {"optimizer_steps": 0, "kl_coefficient": 0.001}


def test_with_refills_early_groups_count_towards_those_wanted() -> None:
    refill = "algorithm.equal_reward_groups=refill"
    rollout = RolloutBatch((*GROUPS, group(5, 1, -1), group(6, -1, 1)), 1.0, 0.0, refills=1, wanted=4)
    whole, _ = outcome(rollout, [], refill)
    parts, (batch, _) = outcome(rollout, [GROUPS[:2], [GROUPS[3]]], refill)
    assert {token // 10 for token, _ in whole.stepped[0]} == {1, 3, 4, 5}, "the sixth is one too many"
    assert set.union(*parts.added, *parts.stepped) == whole.stepped[0] == seen(batch.sequences())


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["keep", "drop", "refill"])
@pytest.mark.parametrize("early", [[], [GROUPS[:1]], [GROUPS[3:], GROUPS[1:3]], [GROUPS]])
def test_old_logprobs_that_came_early_belong_to_their_traces(policy: str, early: list[Sequence[ScoredGroup]]) -> None:
    overrides = ("rl.mini_batch_prompts=2", f"algorithm.equal_reward_groups={policy}")
    wanted = 3 if policy == "refill" else None
    rollout = RolloutBatch((*GROUPS, group(5, 1, -1)), 1.0, 0.0, wanted=wanted)
    whole, _ = outcome(rollout, [], *overrides)
    parts, (batch, metrics) = outcome(rollout, early, *overrides)
    assert (parts.added, parts.stepped) == ([], whole.stepped)
    assert metrics["old"] * metrics["optimizer_steps"] == len(batch.sequences())
    assert sum(parts.asked) >= sum(whole.asked) > 0
    assert len(parts.asked) <= len(early) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "early"),
    [
        ("algorithm=rm_r1", "gradients"),
        ("algorithm=dapo", "gradients"),
        ("algorithm=gspo", "gradients"),
        ("rl.learn_early=false", "nothing"),
        ("rl.mini_batch_prompts=2", "logprobs"),
        ("algorithm.advantage=centred_batch_standardised", "nothing"),
        ("algorithm.kl_in=reward", "nothing"),
    ],
)
def test_early_is_what_changes_nothing(override: str, early: str) -> None:
    sizes = ["rl.prompts_per_step=4", "rl.mini_batch_prompts=4"]
    assert early_work(configured("recipe=tiny", *sizes, override)) == early


def test_several_steps_on_the_engines_own_logprobs_have_nothing_to_do_early() -> None:
    overrides = ["rl.prompts_per_step=4", "rl.mini_batch_prompts=2", "algorithm.old_logprobs=rollout"]
    assert early_work(configured("recipe=tiny", *overrides)) == "nothing"
