"""Two rollout workers and two learner ranks, one version ahead, weights over the network: all bounds are kept."""

from __future__ import annotations

import pytest
from commands import SMALL, Runs

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

TWO = ("rollout.workers=2", "cluster.rollout_cpus=0.5", "learner.ranks=2")
# A folder that cannot be made: weights that went through a file after all would stop the run.
AHEAD = ("algorithm.max_staleness=1", "algorithm.old_logprobs=rollout", "rl.steps=4")
NETWORK = ("cluster.weight_transfer=network", "cluster.weights_directory=/proc/no-weights-here")


def test_two_workers_and_two_ranks_agree_and_stay_within_the_staleness_bound(runs: Runs) -> None:
    runs("run", "two", *SMALL, *TWO, *NETWORK, *AHEAD)
    steps = [line["metrics"] for line in runs.metrics("two", "rl")]
    assert len(steps) == 4
    assert steps[0]["logprob_difference"] < 2e-6
    assert steps[0]["logprob_difference_max"] < 1e-4
    assert max(step["staleness_max"] for step in steps) == 1
    assert all(step["generation_failures"] == 0 for step in steps)
    assert [step["weight_version"] for step in steps] == [1, 2, 3, 4]
    assert {path.name for path in (runs.path("two") / "logs").glob("rollout-*.log")} == {
        "rollout-0.log",
        "rollout-1.log",
    }
