"""The way from learners to engines: through a file, or over a channel that everyone joins once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.cloudpickle
from commands import wait_until
from rollout_actors import RankWithoutModel, StreamingWorker, ranks, reviving, workers
from small_settings import small_optimizer

from actors.deadlines import ActorFailed, NamedActor
from actors.learner import lasting as learner_revival
from actors.learner.group import LearnerGroup
from actors.learner.holder import CopyHolder
from actors.learner.holders import Holders
from actors.messages import LoadedWeights, WeightUpdate
from actors.restarts import Faults
from actors.rollout.fleet import RolloutFleet
from actors.rollout.roster import Revival
from actors.weights.sync import WeightSync

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


# Processes of the cluster do not find this folder: send them the classes, not their names.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class MortalRank(RankWithoutModel):
    """Says where a killer finds it; dies of the first thing that a rank in its place sends."""

    def __init__(self, rank: int, world_size: int, settings: Any, log_path: str) -> None:
        super().__init__(rank, world_size, settings, log_path)
        self._folder = Path(log_path).parent
        (self._folder / f"rank-{rank}.pid").write_text(str(os.getpid()))

    def send(self) -> None:
        if (first := self._folder / "first").exists():
            first.unlink()
            os._exit(1)
        super().send()


class Killer(StreamingWorker):
    """Finds what it is to load gone together with its writer, once."""

    async def update_weights(self, update: WeightUpdate) -> LoadedWeights:
        if (first := Path(self._fault) / "first").exists():
            first.unlink()
            os.kill(int((Path(self._fault) / "rank-0.pid").read_text()), signal.SIGKILL)
            raise FileNotFoundError(update.path)
        return await super().update_weights(update)


@pytest.mark.parametrize(("directory", "kind"), [("folder", Killer), (None, StreamingWorker)], ids=["file", "network"])
def test_weights_of_a_learner_that_died_before_engines_had_them_are_published_once_more(
    tmp_path: Path, directory: str | None, kind: type
) -> None:
    told: list[str] = []
    faults = Faults(5, 3600.0, told.append)
    remote: Any = ray.remote(kind).options(num_cpus=0, max_concurrency=10)
    log = str(tmp_path / "rollout-0.log")
    fleet = RolloutFleet(
        [NamedActor(remote.remote("model", log, str(tmp_path)), "rollout worker 0", log, "engine")],
        120.0,
        reviving(tmp_path, faults),
    )
    holders = Holders(2, lambda rank: NamedActor(ray.remote(CopyHolder).options(num_cpus=0).remote(), f"holder {rank}"))
    started: list[NamedActor] = []

    def restart() -> list[NamedActor]:
        for actor in started:
            ray.kill(actor.handle)
        started[:] = ranks(tmp_path, 2, MortalRank)
        return list(started)

    learners = LearnerGroup(
        restart(), 8, 120.0, False, learner_revival.Revival(restart, lambda: False, holders, faults, told.append)
    )
    learners.ranks.notice = lambda failed, then: faults.noticed("learner", str(failed.actor), "died", then)
    learners.join(60.0, 60.0)
    learners.load("model", None, small_optimizer(), 60.0)
    weights = WeightSync(learners, fleet, directory, "bfloat16", 2, 120.0, bucket_bytes=64, rendezvous_timeout=60.0)
    weights.publish(1)
    (tmp_path / "first").touch()
    assert weights.publish(2) == 0.25
    weights.publish(3)
    assert [fault.kind for fault in faults.seen] == ["learner"]
    assert len(told) == 2
    again = [line for line in said(tmp_path, "learner-1") if line.startswith("published")]
    assert again == [f"published {version} as bfloat16" for version in (1, 2, 2, 3)]
    if directory is None:
        joined = [line for line in said(tmp_path, "rollout-0") if line.startswith("joined")]
        assert joined == ["joined there:2 as 1 of 3"] * 2, "engines meet the new sender, once"
    for actor in [*started, *holders.there()]:
        ray.kill(actor.handle)


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


@pytest.mark.parametrize("directory", ["folder", None], ids=["file", "network"])
def test_weights_that_an_engine_could_not_load_are_published_once_more(tmp_path: Path, directory: str | None) -> None:
    weights = sync(tmp_path, directory, "", "cannot load once")
    assert weights.publish(1) == 0.25
    assert weights.publish(2) == 0.25
    published = [line for line in said(tmp_path, "learner-0") if line.startswith("published")]
    assert published == [f"published {version} as bfloat16" for version in (1, 1, 2)]


def test_what_cannot_be_loaded_twice_ends_the_run_by_name(tmp_path: Path) -> None:
    weights = sync(tmp_path, "folder", "", "cannot load")
    with pytest.raises(ActorFailed, match=r"rollout worker 1 \(log: .*\) failed: UpdateFailed: version 1: no memory"):
        weights.publish(1)
    assert said(tmp_path, "learner-0") == ["published 1 as bfloat16"] * 2


def test_an_engine_that_could_load_others_and_cannot_load_these_twice_is_restarted(tmp_path: Path) -> None:
    faults = Faults(5, 3600.0)
    weights = sync(tmp_path, "folder", "", "can load no more", revival=reviving(tmp_path, faults))
    assert weights.publish(1) == 0.25
    weights.publish(2)
    wait_until(lambda: bool(faults.seen) and faults.seen[0].back is not None, 60, "the engine to be back")
    assert [fault.who for fault in faults.seen] == ["rollout worker 1"]
    assert "version 2: no memory" in faults.seen[0].why
    assert weights.publish(3) == 0.25


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
