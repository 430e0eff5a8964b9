"""What SIGINT, SIGTERM and SIGHUP do: a training loop ends its step and saves; everything else stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ending actors and the cluster gets a third of the grace, but no more than this.
_CLOSING_SECONDS = 10.0
# An exception out of a signal's handler is lost where it happens to be raised in a finaliser: it is raised again.
_AGAIN_SECONDS = 5.0

Reaction = Literal["end the step", "stop", "wait"]


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end, which it does with ``exit_status``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal_name = signal.Signals(number).name
        self.exit_status = 128 + number


class Interruption:
    """What was asked of the process, and what follows from it. Owns no handler and no timer."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first signal that came; None before."""
        self.step_seconds = 0.0
        """How long a loop that saves at the end of its step may take to get there; 0: there is no such loop."""
        self.is_shielded = False
        """What runs now must not be broken off."""
        self.point: Callable[[], str] = lambda: "from the last checkpoint"
        """Where the same command would continue, for messages."""

    def received(self, number: int | None) -> Reaction:
        """A signal came, or, with None, the time that one left is over."""
        first, self.signal = self.signal is None, self.signal or number
        if self.is_shielded or self.signal is None:
            return "wait"
        return "end the step" if first and self.step_seconds > 0 else "stop"


_state = Interruption()
_ends_waits: list[Callable[[], object]] = []
_owned = threading.Event()


def own_process() -> None:
    """Note that this process is a command of ours, and not another's program that uses us."""
    _owned.set()


def owns_process() -> bool:
    """Whether this process is a command of ours, which may end itself when it must."""
    return _owned.is_set()


def install() -> None:
    """Handle the signals here, from now on. Needed again after ``ray.init``, which installs a handler that aborts.

    A signal that was ignored when the process started (``nohup``) stays ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _handle)


def described(error: KeyboardInterrupt) -> tuple[str, str, int]:
    """What ended a command: the signal's name, where to continue, and the exit status."""
    if not isinstance(error, Interrupted):
        error = Interrupted(signal.SIGINT)
    return error.signal_name, _state.point(), error.exit_status


def requested() -> bool:
    """Whether a training loop is to save and stop when its step ends."""
    return _state.signal is not None


@contextmanager
def at_step_ends(grace: float, point: Callable[[], str]) -> Iterator[None]:
    """Inside, a loop looks at :func:`requested` after each step, and is stopped only when most of ``grace`` is over.

    Args:
        grace: seconds from a signal to the end of the process; 0: a signal stops the loop at once.
        point: says where the same command would continue.

    """
    _state.step_seconds, _state.point = grace - min(_CLOSING_SECONDS, grace / 3), point
    try:
        yield
    finally:
        _state.step_seconds = 0.0
    stop()


@contextmanager
def shielded() -> Iterator[None]:
    """Inside, signals wait: what is being closed is closed whole."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    asked_before, before, _state.is_shielded = requested(), _state.is_shielded, True
    try:
        yield
    finally:
        _state.is_shielded = before
    if not asked_before and not before:
        stop()


@contextmanager
def ending_waits(end: Callable[[], object]) -> Iterator[None]:
    """Inside, ``end`` is called, in a thread, when the process stops: it ends what other threads wait for.

    An event loop that is interrupted waits for its threads, and those for actors.
    """
    _ends_waits.append(end)
    try:
        yield
    finally:
        _ends_waits.remove(end)


def stop() -> None:
    """End the process now, if a signal asked for it.

    Raises:
        Interrupted: naming the first that did.

    """
    if _state.signal is not None:
        raise Interrupted(_state.signal)


def _handle(number: int, frame: FrameType | None) -> None:
    reaction = _state.received(None if number == signal.SIGALRM else number)
    if reaction == "end the step":
        signal.setitimer(signal.ITIMER_REAL, _state.step_seconds)
        name = signal.Signals(number).name
        # Not through a stream: the handler may have come in the middle of a write to it.
        os.write(2, f"\n{name}: saving when this step ends, or stopping in {_state.step_seconds:.0f} s\n".encode())
    elif reaction == "stop":
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        for end in _ends_waits:
            threading.Thread(target=end, daemon=True).start()
        stop()
