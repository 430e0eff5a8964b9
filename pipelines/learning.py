"""What is learnt from one rollout batch: gradients of its groups as they come, or mini-batches when it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np

from actors.learner.advantages import OVER_BATCH, adapted_coefficient
from actors.learner.group import LearnerGroup
from actors.learner.settings import PolicySettings
from actors.messages import ScoredGroup, TrainingSequence
from pipelines.batches import PolicyBatch, policy_batch
from pipelines.config import Algorithm, Config
from pipelines.rollouts import RolloutBatch


def learns_early(config: Config) -> bool:
    """Whether a group's gradient is the same before the rest of its batch is known, so that it need not wait.

    It is where the whole batch is one optimiser step and advantages compare within groups. A KL in the reward is
    measured for the whole batch at once.
    """
    return (
        config.rl.learn_early
        and config.rl.mini_batch_prompts == config.rl.prompts_per_step
        and config.algorithm.advantage not in OVER_BATCH
        and not (config.algorithm.kl_in == "reward" and config.algorithm.kl_coefficient > 0)
    )


class BatchLearning:
    """The learners' work on the rollout batch of one step. Groups may be given early, any number of times."""

    def __init__(self, learners: LearnerGroup, config: Config, algorithm: Algorithm, step: int) -> None:
        """``algorithm`` is the configuration's with the KL coefficient of this step."""
        self._learners = learners
        self._config = config
        self._algorithm = algorithm
        self._step = step
        self._settings = policy_settings(config, algorithm)
        self._early: dict[str, bool] = {}
        """Prompt -> whether its group is trained on, of groups that were given early."""

    def early(self, groups: Sequence[ScoredGroup]) -> None:
        """Add the gradients of complete groups while others are being written; see :func:`learns_early`."""
        taught = {group.prompt.uid: self._batch([group]).sequences() for group in groups}
        self._early |= {uid: bool(sequences) for uid, sequences in taught.items()}
        if sequences := [sequence for group in taught.values() for sequence in group]:
            self._learners.add_policy_gradients(sequences, self._settings)

    def finish(self, rollout: RolloutBatch) -> tuple[PolicyBatch, dict[str, float]]:
        """Learn the rest and step; returns the whole batch as it was trained on, and what the learners measured."""
        batch = self._batch(rollout.groups, rollout.wanted)
        taught = sum(self._early.values())
        if not taught:
            return batch, learn(self._learners, batch, self._settings)
        rest = [group for group in rollout.groups if group.prompt.uid not in self._early]
        wanted = None if rollout.wanted is None else rollout.wanted - taught
        sequences = self._batch(rest, wanted).sequences() if rest else []
        return batch, self._learners.policy_step(sequences, self._settings) | {"optimizer_steps": 1.0}

    def _batch(self, groups: Sequence[ScoredGroup], wanted: int | None = None) -> PolicyBatch:
        """Groups as mini-batches with advantages."""
        algorithm = self._algorithm
        in_reward = algorithm.kl_in == "reward" and self._config.algorithm.kl_coefficient > 0
        return policy_batch(
            groups,
            algorithm,
            self._config.rl.mini_batch_prompts,
            weight_version=self._step,
            wanted=wanted,
            on_failure=self._config.verifier.on_failure,
            penalise=self._kl if in_reward else None,
        )

    def _kl(self, sequences: Sequence[TrainingSequence]) -> list[np.ndarray]:
        return self._learners.kl_to_reference(sequences, self._algorithm.kl_estimator, self._algorithm.temperature)


def policy_settings(config: Config, algorithm: Algorithm) -> PolicySettings:
    """The learners' form of the objective."""
    shared = {item.name for item in fields(PolicySettings)} & {item.name for item in fields(algorithm)}
    values = {name: getattr(algorithm, name) for name in shared}
    if algorithm.kl_in == "reward":
        values["kl_coefficient"] = 0.0
    return PolicySettings(fixed_length=config.model.max_response_tokens, **values)


def next_coefficient(algorithm: Algorithm, metrics: Mapping[str, float]) -> float:
    """The KL coefficient after a step: steered towards ``kl_target`` where there is one and a KL was measured."""
    if not algorithm.kl_target or "kl" not in metrics:
        return algorithm.kl_coefficient
    return adapted_coefficient(algorithm.kl_coefficient, metrics["kl"], algorithm.kl_target)


def learn(learners: LearnerGroup, batch: PolicyBatch, settings: PolicySettings) -> dict[str, float]:
    """One optimiser step a mini-batch; the metrics are means over them."""
    steps: list[dict[str, float]] = []
    if len(batch.mini_batches) > 1 and batch.needs_old_logprobs:
        batch = batch.with_old_logprobs(learners.logprobs(batch.sequences(), settings.temperature))
    for sequences in batch.mini_batches:
        if sequences:
            steps.append(learners.policy_step(sequences, settings))
    return _mean(steps) | {"optimizer_steps": float(len(steps))}


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
