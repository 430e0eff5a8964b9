"""Of a death that nobody waits to learn of, a person is told all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from actors.deadlines import ActorFailed, NamedActor
from actors.monitor import Stuck
from pipelines.config.compose import load_config
from pipelines.job.watch import Watch

RANK = NamedActor(None, "learner rank 1", "learner-1.log", "learner")
VERIFIER = NamedActor(None, "the reward verifier", "verifier.log", "verifier")
Told = Callable[[NamedActor, Exception], None]


def death(of: NamedActor) -> ActorFailed:
    error = ActorFailed(f"a sign of life: {of} died: its process was killed")
    error.actor = of
    return error


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], tuple[Told, Told, list[Any]]]:
    """What the monitor would tell of a rank and of the verifier, where somebody waits or not; and who was lost."""

    def over(is_awaited: bool, known: str = "") -> tuple[Told, Told, list[Any]]:
        watch, lost, watched = Watch(load_config(["recipe=tiny"])), [], []
        monkeypatch.setattr(watch._monitor, "watch", lambda actor, patience, told, group=None: watched.append(told))
        if known:
            watch.faults.noticed("learner", known, "died", "all ranks are restarted")
        watch.over_learners([RANK], lambda *what: lost.append(what), lambda: is_awaited)
        watch.over_verifier(VERIFIER, lambda: is_awaited)
        return watched[0], watched[1], lost

    return over


def test_a_death_is_said_where_nobody_waits(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    of_rank, of_verifier, lost = told(is_awaited=False)
    error = death(RANK)
    with caplog.at_level(logging.WARNING):
        of_rank(RANK, error)
        of_verifier(VERIFIER, death(VERIFIER))
    ends = "died: its process was killed; whoever waits for it, or asks it next, has it restarted"
    assert [record.getMessage() for record in caplog.records] == [
        f"learner rank 1 {ends}",
        f"the reward verifier {ends}",
    ]
    assert lost == [(RANK, error)]


def test_who_waits_learns_of_it_by_itself_but_not_why_one_was_stuck(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    of_rank, of_verifier, lost = told(is_awaited=True)
    with caplog.at_level(logging.WARNING):
        of_rank(RANK, death(RANK))
        of_verifier(VERIFIER, death(VERIFIER))
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        of_rank(RANK, Stuck("learner rank 1 was stuck"))
    assert [record.getMessage() for record in caplog.records] == ["learner rank 1 was stuck"]
    assert len(lost) == 2


def test_a_death_of_which_somebody_has_learnt_is_said_once(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A rank whose death somebody has noticed, and who waits for room to restart all of them, and not for the rank."""
    of_rank, of_verifier, lost = told(is_awaited=False, known="learner rank 1")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        of_rank(RANK, death(RANK))
        assert caplog.records == []
        of_verifier(VERIFIER, death(VERIFIER))
    assert len(caplog.records) == 1
    assert len(lost) == 1
