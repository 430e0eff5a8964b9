"""The way from learners to engines: through a file, or over a channel that everyone joins once."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from commands import wait_until
from rollout_actors import ranks, reviving, workers

from actors.deadlines import ActorFailed
from actors.learner.group import LearnerGroup
from actors.restarts import Faults
from actors.rollout.fleet import RolloutFleet
from actors.rollout.roster import Revival
from actors.weights.sync import WeightSync

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def sync(folder: Path, directory: str | None, *faults: str, revival: Revival | None = None) -> WeightSync:
    """Two ranks, a worker per fault, and the way between them; engines have two processes each."""
    learners = LearnerGroup(ranks(folder, 2), micro_batch_tokens=8, timeout=120.0, packing=False)
    fleet = RolloutFleet(workers(folder, *faults), 120.0, revival)
    return WeightSync(learners, fleet, directory, "bfloat16", 2, 120.0, bucket_bytes=64, rendezvous_timeout=60.0)


def said(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.log").read_text().splitlines()[1:]


def test_through_a_file_nobody_meets(tmp_path: Path) -> None:
    weights = sync(tmp_path, "folder", "", "")
    assert weights.publish(3) == 0.25
    assert said(tmp_path, "learner-0") == ["published 3 as bfloat16"], "it stays for engines that come later"
    weights.close()
    assert said(tmp_path, "learner-0")[1:] == ["removed folder"], "by its writer, on its node"
    assert said(tmp_path, "learner-1") == ["published 3 as bfloat16"]
    assert said(tmp_path, "rollout-1") == []


def test_over_the_network_every_process_joins_once_and_rank_0_sends_each_time(tmp_path: Path) -> None:
    weights = sync(tmp_path, None, "", "")
    for version in (1, 2):
        weights.publish(version)
    assert said(tmp_path, "learner-0") == [
        "joined as 0 of 5",
        *("published 1 as bfloat16", "sent", "published 2 as bfloat16", "sent"),
    ]
    assert said(tmp_path, "rollout-0") == ["joined there:2 as 1 of 5"]
    assert said(tmp_path, "rollout-1") == ["joined there:2 as 3 of 5"]


def test_over_the_network_an_engine_that_comes_back_is_sent_the_last_weights_alone(tmp_path: Path) -> None:
    faults = Faults(5, 3600.0)
    weights = sync(tmp_path, None, "", "", revival=reviving(tmp_path, faults))
    weights.publish(1)
    roster = weights._fleet.roster
    dead = roster.workers[0]
    ray.kill(dead.handle)
    roster.lost(dead, ActorFailed(f"{dead} died"))
    wait_until(lambda: faults.seen != [] and faults.seen[0].back is not None, 60, "the worker")
    weights.publish(2)
    assert said(tmp_path, "learner-0") == [
        *("joined as 0 of 5", "published 1 as bfloat16", "sent"),
        *("joined as 0 of 3", "sent"),
        *("joined as 0 of 5", "published 2 as bfloat16", "sent"),
    ]
    assert [line for line in said(tmp_path, "rollout-0") if line.startswith("joined")] == [
        *("joined there:2 as 1 of 5", "joined there:2 as 1 of 3", "joined there:2 as 1 of 5")
    ]
    assert said(tmp_path, "rollout-1") == ["joined there:2 as 3 of 5"] * 2


def test_what_goes_wrong_names_who_and_what_for(tmp_path: Path) -> None:
    weights = sync(tmp_path, "folder", "", "other bytes")
    with pytest.raises(ActorFailed, match=r"rollout worker 1 \(log: .*\) holds weight version 4 with checksum"):
        weights.publish(4)
