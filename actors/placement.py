"""From the shape of a job to reserved resources: one placement group, a bundle an actor, and a deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import UserError


class ClusterTooSmall(UserError, RuntimeError):
    """The cluster does not have what the actors need; says what is missing."""


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """How many actors of each kind there are and what one of each takes."""

    rollout_workers: int
    rollout_cpus: float
    rollout_gpus: float
    learners: int
    learner_cpus: float
    learner_gpus: float

    def rollout_bundle(self) -> dict[str, float]:
        """Resources of one rollout worker, all on one node."""
        return bundle(self.rollout_cpus, self.rollout_gpus)

    def learner_bundle(self) -> dict[str, float]:
        """Resources of one learner rank."""
        return bundle(self.learner_cpus, self.learner_gpus)

    def bundles(self) -> list[dict[str, float]]:
        """Rollout workers first, then learner ranks."""
        return [self.rollout_bundle()] * self.rollout_workers + [self.learner_bundle()] * self.learners


def bundle(cpus: float, gpus: float) -> dict[str, float]:
    """A Ray resource bundle; resources of zero are left out, and an empty bundle takes a token share of a CPU."""
    resources = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount > 0}
    return resources or {"CPU": 0.001}


def shortage(needed: Sequence[Mapping[str, float]], available: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Resources of which the cluster has less than all bundles together: name -> (needed, there)."""
    total: dict[str, float] = {}
    for resources in needed:
        for name, amount in resources.items():
            total[name] = total.get(name, 0.0) + amount
    return {
        name: (amount, available.get(name, 0.0))
        for name, amount in total.items()
        if amount > available.get(name, 0.0) + 1e-6
    }


def reserve(shape: ClusterShape, seconds: float) -> Any:
    """Reserve every bundle at once and return the ready placement group.

    Nodes may still be joining (autoscalers, Slurm), so a shortage is final only when ``seconds`` have passed.

    Raises:
        ClusterTooSmall: naming what is missing, after the deadline.

    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    bundles = shape.bundles()
    group = placement_group(bundles, strategy="PACK")
    deadline = time.monotonic() + seconds
    while not group.wait(timeout_seconds=max(0.1, min(2.0, deadline - time.monotonic()))):
        if time.monotonic() < deadline:
            continue
        remove_placement_group(group)
        wanted = (
            f"{shape.rollout_workers} rollout worker(s) with {shape.rollout_bundle()} each and "
            f"{shape.learners} learner rank(s) with {shape.learner_bundle()} each"
        )
        missing = shortage(bundles, ray.cluster_resources())
        if missing:
            lack = ", ".join(
                f"{name}: {need:g} needed, {have:g} in the cluster" for name, (need, have) in missing.items()
            )
            raise ClusterTooSmall(
                f"after {seconds:g} s the cluster still lacks resources for {wanted}: {lack}. Add nodes, or lower "
                "rollout.workers, learner.ranks, cluster.rollout_cpus or cluster.learner_cpus"
            )
        raise ClusterTooSmall(
            f"after {seconds:g} s the cluster has not placed {wanted}, though it has enough in total: other jobs hold "
            f"resources, or no single node fits one actor. Free now: {ray.available_resources()}"
        )
    return group
