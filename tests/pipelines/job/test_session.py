"""A session starts what is asked for when it is asked for, and ends all of it and nothing else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import wait_until
from rollout_actors import UPDATE, RankWithoutModel, StreamingWorker, workers

from actors.deadlines import ActorFailed, NamedActor, get
from pipelines.config import arithmetic
from pipelines.config.compose import load_config
from pipelines.job import learners
from pipelines.job import session as module
from pipelines.job.session import Session
from pipelines.runs.folder import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Workers and ranks without models, so that only their starting and ending is left; a real verifier."""
    monkeypatch.setattr(module, "RolloutWorker", StreamingWorker)
    monkeypatch.setattr(learners, "Learner", RankWithoutModel)
    config = load_config([f"output_root={tmp_path}", "run=job", f"cluster.weights_directory={tmp_path}"])
    with RunDirectory(tmp_path, "job") as run:
        yield Session(config, run)


def logs(session: Session) -> set[str]:
    return {file.name for file in session.run.logs.iterdir()}


def holders(session: Session) -> list[NamedActor]:
    assert session._learners._holders is not None
    return session._learners._holders.there()


def block(actor: Any) -> None:
    threading.Event().wait()


def has_ended(actor: NamedActor) -> bool:
    """Whether a call that no living actor would answer ends with the actor's death, which takes a moment."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        ray.get(actor.handle.__ray_call__.remote(block), timeout=60)
    except RayActorError:
        return True
    except GetTimeoutError:
        return False
    raise AssertionError


def test_a_type_that_the_processor_lacks_is_warned_of_once(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arithmetic, "computes_in", lambda dtype: dtype == "float32")
    session.config.rollout.dtype = "bfloat16"
    with session:
        session.rollouts("model")
        session.learners()
    warned = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(warned) == 1
    assert "set rollout.dtype=float32" in warned[0]


def test_the_learners_type_is_not_warned_of_where_there_are_none(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arithmetic, "computes_in", lambda dtype: dtype == "float32")
    session.config.learner.dtype, session.config.learner.ranks = "bfloat16", 0
    with session:
        session.rollouts("model")
    assert [record for record in caplog.records if record.name == module.__name__] == []


def test_parts_start_when_they_are_asked_for_and_once(session: Session) -> None:
    with session:
        assert logs(session) == set()
        fleet = session.rollouts("model")
        assert logs(session) == {"rollout-0.log"}
        assert session.rollouts("model") is session.rollouts() is fleet
        group = session.learners()
        assert session.learners() is group
        assert [str(actor) for actor in group.actors] == [
            f"learner rank {rank} (log: {session.run.logs / f'learner-{rank}.log'})" for rank in range(2)
        ]
        assert session.verifier() is session.verifier()
        assert session.weight_sync() is session.weight_sync()
        assert logs(session) == {"rollout-0.log", "learner-0.log", "learner-1.log", "verifier.log"}


def test_all_of_it_ends_with_the_session_also_where_a_stage_fails(session: Session, tmp_path: Path) -> None:
    import ray
    from ray.util import placement_group_table

    [foreign] = workers(tmp_path, "")
    started: list[NamedActor] = []

    def stage() -> None:
        with session:
            session.verifier()
            assert session._verifier._actor is not None
            started.extend([*session.rollouts("model").workers, *session.learners().actors, session._verifier._actor])
            started.extend(holders(session))
            session.weights_directory.mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage()
    assert [has_ended(actor) for actor in started] == [True] * 6
    assert "stopped" in (session.run.logs / "rollout-0.log").read_text(), "engines end before their actor does"
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    assert not session.weights_directory.exists()
    assert ray.is_initialized(), "the cluster is not this session's"
    ray.get(foreign.handle.start.remote(0), timeout=60)


def test_what_never_came_up_ends_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: Any, *_: Any) -> None:
        raise ConnectionError("nobody meets here")

    monkeypatch.setattr(RankWithoutModel, "join", refuses)
    with session:
        with pytest.raises(ActorFailed, match=r"learner rank [01] .* failed: ConnectionError"):
            session.learners()
        assert session._learners.group is not None
        actors = session._learners.group.actors
    assert [has_ended(actor) for actor in actors] == [True, True]


def test_engines_hold_the_model_that_is_asked_for(session: Session) -> None:
    def starts() -> list[str]:
        lines = (session.run.logs / "rollout-0.log").read_text().splitlines()
        return [line.removeprefix("started on ") for line in lines if line.startswith("started on ")]

    with session:
        with pytest.raises(RuntimeError, match="no engines were launched"):
            session.rollouts()
        session.launch_rollouts("one")
        first = session.rollouts("one")
        first.update_weights(UPDATE)
        assert session.rollouts() is first, "whatever they hold"
        again = session.rollouts("one")
        assert again is not first
        assert has_ended(first.workers[0])
        session.rollouts("two")
        assert starts() == ["one", "one", "two"]


def test_a_rank_that_is_stopped_is_killed_at_its_deadline_and_whoever_waits_for_it_is_told(session: Session) -> None:
    import ray

    session.config.cluster.stuck_after = 2.0
    with Session(session.config, session.run) as watching:
        first, second = watching.learners().actors
        watched = watching._watch._monitor._watched
        wait_until(lambda: watched[second.name].processes is not None, 60, "the rank to be known")
        os.kill(ray.get(second.handle.processes.remote(), timeout=60).members[0][0], signal.SIGSTOP)
        with pytest.raises(ActorFailed, match=r"^an answer: learner rank 1 .* died: ") as caught:
            get([second.handle.rendezvous.remote()], 120.0, "an answer", [second])
        assert (caught.value.kind, caught.value.actor) == ("learner", second)
        assert get([first.handle.rendezvous.remote()], 60.0, "an answer", [first]) == [("here", 1)]


def test_only_the_learners_are_released(session: Session) -> None:
    with session:
        fleet, group = session.rollouts("model"), session.learners()
        session.weight_sync()
        ended = [*group.actors, *holders(session)]
        session.release_learners()
        assert [has_ended(actor) for actor in ended] == [True] * 4
        assert session.rollouts() is fleet
        with pytest.raises(RuntimeError, match="start both first"):
            session.weight_sync()
        assert session.learners() is not group


def test_devices_that_are_shared_are_had_in_turn_and_engines_measure_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RolloutWorker", StreamingWorker)
    monkeypatch.setattr(learners, "Learner", RankWithoutModel)
    config = load_config(
        [
            *(f"output_root={tmp_path}", "run=job", f"cluster.weights_directory={tmp_path}", "learner.ranks=1"),
            *("cluster.share_devices=true", "rl.learn_early=false"),
        ]
    )

    def said(name: str) -> list[str]:
        return (run.logs / f"{name}.log").read_text().splitlines()[1:]

    with RunDirectory(tmp_path, "job") as run, Session(config, run) as session:
        session.launch_rollouts("model")
        group = session.learners()
        assert session._fleet is not None, "engines are up before a rank is started"
        group.save("here", {})
        assert (said("rollout-0"), said("learner-0")) == (["fell asleep"], ["came", "saved here"])
        session.weight_sync().publish(3)
        assert said("rollout-0") == ["fell asleep", "woke weights", "woke kv_cache"]
        assert said("learner-0")[2:] == ["published 3 as float32", "left"]
        figures = session.metrics()
        assert (figures["memory/engines"], figures["memory/learners_off"]) == (2 / 2**30, 1 / 2**30)
        assert min(figures[f"time/{name}"] for name in ("sleep", "wake", "offload", "onload")) > 0
        group.save("there", {})
        session.rollouts("another")
        later = [line for line in said("learner-0")[4:] if not line.startswith("removed")]
        assert later == ["came", "saved there", "left"], "before others are started"
        group.save("again", {})
        assert said("rollout-0")[-1] == "fell asleep"
