"""Signals: what a training loop does, what everything else does, and what is shielded."""

from __future__ import annotations

import signal

import pytest

from pipelines.runs.interruption import Interrupted, Interruption


def test_outside_a_loop_a_signal_stops_at_once() -> None:
    state = Interruption()
    assert state.received(signal.SIGTERM) == "stop"
    assert state.signal == signal.SIGTERM


def test_a_loop_ends_its_step_and_stops_at_a_second_signal() -> None:
    state = Interruption()
    state.step_seconds = 20.0
    assert state.received(signal.SIGTERM) == "end the step"
    assert state.received(signal.SIGINT) == "stop"
    assert state.signal == signal.SIGTERM, "the first decides the exit status"


def test_a_loop_stops_when_its_time_is_over() -> None:
    state = Interruption()
    state.step_seconds = 20.0
    assert state.received(signal.SIGHUP) == "end the step"
    assert state.received(None) == "stop"


def test_what_is_shielded_is_not_broken_off() -> None:
    state = Interruption()
    state.is_shielded = True
    assert [state.received(signal.SIGTERM), state.received(None), state.received(signal.SIGINT)] == ["wait"] * 3
    assert state.signal == signal.SIGTERM


def test_an_alarm_without_a_signal_means_nothing() -> None:
    assert Interruption().received(None) == "wait"


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_the_exit_status_is_the_shells(number: int, status: int, name: str) -> None:
    error = Interrupted(number)
    assert (error.exit_status, error.signal_name) == (status, name)
