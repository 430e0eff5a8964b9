"""Learn from a rollout batch: early from complete groups, then from the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from actors.learner.advantages import adapted_coefficient
from actors.learner.choices import ADVANTAGES
from actors.learner.group import LearnerGroup
from actors.learner.settings import PolicySettings
from actors.messages import ScoredGroup, TrainingSequence
from pipelines.config import Algorithm, Config
from pipelines.job.settings import policy_settings
from pipelines.loop.batches import PolicyBatch, policy_batch
from pipelines.loop.failed_share import refuse_failed
from pipelines.loop.rollouts import RolloutBatch

Early = Literal["gradients", "logprobs", "nothing"]


def early_work(config: Config) -> Early:
    """What learners can do with complete groups before the rest of their batch is written, without changing the result.

    ``gradients``, where the whole batch is one optimiser step and advantages compare within groups. ``logprobs``, the
    old ones, where there are several optimiser steps and the learner recomputes them. ``nothing`` in all other cases:
    a KL in the reward, for one, is measured for the whole batch at once.
    """
    algorithm = config.algorithm
    if not config.rl.learn_early or _kl_in_reward(config):
        return "nothing"
    if config.rl.mini_batch_prompts == config.rl.prompts_per_step:
        return "nothing" if ADVANTAGES[algorithm.advantage].over_batch else "gradients"
    return "logprobs" if algorithm.old_logprobs == "learner" else "nothing"


class BatchLearning:
    """The learners' work on the rollout batch of one step. Groups may be given early, any number of times."""

    def __init__(self, learners: LearnerGroup, config: Config, algorithm: Algorithm, step: int) -> None:
        """``algorithm`` is the configuration's with the KL coefficient of this step."""
        self.early_work = early_work(config)
        self._learners = learners
        self._config = config
        self._algorithm = algorithm
        self._step = step
        self._settings = policy_settings(config, algorithm)
        # Keyed by the group's identity: a prompt may occur twice in a batch, where an epoch ends within it.
        self._early: dict[int, bool] = {}
        """Groups that were given early, and whether the learners now hold gradients of them: some teach nothing."""
        self._old: dict[int, list[np.ndarray]] = {}
        """Groups that were given early, and their traces' log-probabilities under the weights before this step."""

    @property
    def early_tokens(self) -> float:
        """Tokens of complete groups that are worth a call of :meth:`early`; infinite where none can be made."""
        return math.inf if self.early_work == "nothing" else self._learners.full_round

    def early(self, groups: Sequence[ScoredGroup]) -> None:
        """Work on complete groups while others are being written; see :func:`early_work`."""
        if self.early_work == "logprobs":
            self._old |= self._logprobs(groups)
        elif self.early_work == "gradients":
            sequences = [self._batch([group]).sequences() for group in groups]
            self._early |= {id(group): bool(mine) for group, mine in zip(groups, sequences, strict=True)}
            if flat := [sequence for mine in sequences for sequence in mine]:
                self._learners.add_policy_gradients(flat, self._settings)

    def finish(self, rollout: RolloutBatch) -> tuple[PolicyBatch, dict[str, float]]:
        """Learn from the groups that were not given early, and step.

        Returns:
            The whole batch as it was trained on, and what the learners measured.

        Raises:
            TooManyFailed: too many traces are missing.

        """
        refuse_failed(rollout.groups, self._config.rl.max_failed_share)
        batch = self._batch(rollout.groups, rollout.wanted)
        if self._old:
            self._old |= self._logprobs([group for group in rollout.groups if id(group) not in self._old])
            old = [logprobs for group in rollout.groups for logprobs in self._old[id(group)]]
            # With refills there may be more groups than are wanted; those beyond are the last ones.
            batch = batch.with_old_logprobs(old[: len(batch.sequences())])
        coefficient = {"kl_coefficient": self._algorithm.kl_coefficient}
        taught = sum(self._early.values())
        if not taught:
            return batch, learn(self._learners, batch, self._settings) | coefficient
        rest = [group for group in rollout.groups if id(group) not in self._early]
        wanted = None if rollout.wanted is None else rollout.wanted - taught
        sequences = self._batch(rest, wanted).sequences() if rest else []
        return batch, self._learners.policy_step(sequences, self._settings) | {"optimizer_steps": 1.0} | coefficient

    def _logprobs(self, groups: Sequence[ScoredGroup]) -> dict[int, list[np.ndarray]]:
        """Log-probabilities of the traces that are trained on, by group."""
        sequences = [self._batch([group]).sequences() for group in groups]
        flat = [sequence for mine in sequences for sequence in mine]
        found = iter(self._learners.logprobs(flat, self._settings.temperature) if flat else [])
        return {id(group): [next(found) for _ in mine] for group, mine in zip(groups, sequences, strict=True)}

    def _batch(self, groups: Sequence[ScoredGroup], wanted: int | None = None) -> PolicyBatch:
        """Groups as mini-batches with advantages."""
        return policy_batch(
            groups,
            self._algorithm,
            self._config.rl.mini_batch_prompts,
            weight_version=self._step,
            wanted=wanted,
            on_failure=self._config.verifier.on_failure,
            penalise=self._kl if _kl_in_reward(self._config) else None,
        )

    def _kl(self, sequences: Sequence[TrainingSequence]) -> list[np.ndarray]:
        return self._learners.kl_to_reference(sequences, self._algorithm.kl_estimator, self._algorithm.temperature)


def _kl_in_reward(config: Config) -> bool:
    return config.algorithm.kl_in == "reward" and config.algorithm.kl_coefficient > 0


def next_coefficient(algorithm: Algorithm, metrics: Mapping[str, float]) -> float:
    """The next step's KL coefficient: steered towards ``kl_target`` if that is set and the step measured a KL."""
    if not algorithm.kl_target or "kl" not in metrics:
        return algorithm.kl_coefficient
    return adapted_coefficient(algorithm.kl_coefficient, metrics["kl"], algorithm.kl_target)


def learn(learners: LearnerGroup, batch: PolicyBatch, settings: PolicySettings) -> dict[str, float]:
    """One optimiser step per mini-batch; the metrics are means over the mini-batches."""
    steps: list[dict[str, float]] = []
    if len(batch.mini_batches) > 1 and batch.needs_old_logprobs:
        batch = batch.with_old_logprobs(learners.logprobs(batch.sequences(), settings.temperature))
    for sequences in batch.mini_batches:
        if sequences:
            steps.append(learners.policy_step(sequences, settings))
    return _mean(steps) | {"optimizer_steps": float(len(steps))}


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
