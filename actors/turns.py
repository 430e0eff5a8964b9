"""Engines and learners on the same devices in turn: who has them, and the way from one to the other.

    learners leave -> engines wake -> generate -> engines sleep -> learners come back -> learn
    -> engines' weights wake -> publish -> learners leave -> engines' caches wake -> generate -> ...

What has the devices keeps them until the other side asks for them, and is let go only when nothing of it is under way.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Literal, Protocol

from actors.deadlines import DeadlineExceeded
from actors.messages import MemoryUse

log = logging.getLogger(__name__)

Side = Literal["engines", "learners"]
_OTHER: dict[Side, Side] = {"engines": "learners", "learners": "engines"}
_GIB = 2**30
# How often one that waits looks whether it is to wait no longer.
_LOOK_SECONDS = 0.2


class Engines(Protocol):
    """All engines."""

    def sleep(self, at_once: bool) -> Sequence[MemoryUse]:
        """Give the devices' memory back; ``at_once``: without the ends of what is being written."""

    def wake(self, part: str) -> None:
        """Take memory for one part again: ``weights`` or ``kv_cache``."""


class Learners(Protocol):
    """All learner ranks."""

    def leave_device(self) -> Sequence[MemoryUse]:
        """Move what is kept between steps into the machine's memory."""

    def take_device(self) -> None:
        """Move it back."""


class Together:
    """Engines and learners have devices of their own: nobody waits for anybody."""

    on_same_devices = False

    @contextmanager
    def learners(self) -> Iterator[None]:
        """While learners compute."""
        yield

    @asynccontextmanager
    async def engines(self) -> AsyncIterator[None]:
        """While engines write."""
        yield

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """While an engine is started in the place of one that died."""
        yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While weights pass from learners to engines."""
        yield

    def attach(self, *, engines: Engines | None = None, learners: Learners | None = None) -> None:
        """Engines that have started, or learners that have met, in the place of those before."""

    def clear(self) -> None:
        """Engines were ended, and others are to start: nobody else may have the devices."""

    def metrics(self) -> dict[str, float]:
        """What turns took since this was asked last."""
        return {}


class Turns(Together):
    """Engines and learners take turns. Methods may be called from any thread.

    Any number of calls may hold the devices for one side at a time; only :meth:`publishing` has both sides on them,
    engines with their weights alone.
    """

    on_same_devices = True

    def __init__(self, seconds: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """``seconds`` are the longest wait for the other side; while ``hurried``, learners do not wait for the ends of
        what engines write, which is then lost."""
        self._seconds = seconds
        self._hurried = hurried
        self._engines: Engines | None = None
        self._learners: Learners | None = None
        self._awake: set[str] = set()
        """Parts of the engines that are on the devices."""
        self._learners_on = False
        self._changed = threading.Condition()
        self._holds: dict[Side, int] = {"engines": 0, "learners": 0}
        self._mover: int | None = None
        """The thread that moves them, or publishes."""
        self._waiting = ThreadPoolExecutor(1, thread_name_prefix="turns")
        """Where a turn is waited for without holding up an event loop."""
        self._seconds_of: dict[str, float] = {}
        self._memory: dict[str, float] = {}
        self.metrics()

    def attach(self, *, engines: Engines | None = None, learners: Learners | None = None) -> None:
        """Engines start awake. Learners have nothing on the devices before they load."""
        with self._changed:
            if learners is not None:
                self._learners, self._learners_on = learners, False
            if engines is not None:
                self._engines, self._awake = engines, {"weights", "kv_cache"}
            self._changed.notify_all()

    @contextmanager
    def learners(self) -> Iterator[None]:
        """While learners compute: engines sleep."""
        with self._held("learners"):
            yield

    @contextmanager
    def restarting(self) -> Iterator[None]:
        """While an engine starts and is given weights: learners are off the devices, which it measures."""
        with self._held("engines"):
            yield

    @asynccontextmanager
    async def engines(self) -> AsyncIterator[None]:
        """While engines write: learners are off the devices."""
        if not self._at_once("engines"):
            turn = self._waiting.submit(self._take, "engines")
            try:
                await asyncio.wrap_future(turn)
            except asyncio.CancelledError:
                turn.add_done_callback(self._not_wanted)
                raise
        try:
            yield
        finally:
            self._give("engines")

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Weights pass: beside the learners, engines have theirs alone. It ends with the engines' turn.

        After an error both sides stay as they are, until one of them asks for the devices.
        """
        self._begin("learners", "engines")
        try:
            self._to_learners()
            self._wake("weights")
            yield
            self._to_engines()
        finally:
            self._end()

    def clear(self) -> None:
        """Engines were ended, and others are to start, which measure the devices: learners leave them."""
        self._begin("learners")
        try:
            self._engines, self._awake = None, set()
            self._to_engines()
        finally:
            self._end()

    def metrics(self) -> dict[str, float]:
        """Seconds of moving since this was asked last, and each side's memory in GiB, as it was last seen: at the end
        of its turn, and without it."""
        seconds, self._seconds_of = self._seconds_of, dict.fromkeys(("sleep", "wake", "offload", "onload"), 0.0)
        return {f"time/{name}": value for name, value in seconds.items()} | self._memory

    @contextmanager
    def _held(self, side: Side) -> Iterator[None]:
        if self._mover == threading.get_ident():  # Part of a publish.
            yield
            return
        if not self._at_once(side):
            self._take(side)
        try:
            yield
        finally:
            self._give(side)

    def _has(self, side: Side) -> bool:
        """Whether the devices are this side's alone."""
        if side == "learners":
            return self._learners_on and not self._awake
        return not self._learners_on and (self._engines is None or len(self._awake) == 2)

    def _at_once(self, side: Side) -> bool:
        with self._changed:
            if self._mover is not None or not self._has(side):
                return False
            self._holds[side] += 1
            return True

    def _take(self, side: Side) -> None:
        self._begin(_OTHER[side])
        try:
            if not self._has(side):
                (self._to_learners if side == "learners" else self._to_engines)()
            with self._changed:
                self._holds[side] += 1
        finally:
            self._end()

    def _give(self, side: Side) -> None:
        with self._changed:
            self._holds[side] -= 1
            self._changed.notify_all()

    def _not_wanted(self, turn: Future[None]) -> None:
        if not turn.cancelled() and turn.exception() is None:
            self._give("engines")

    def _begin(self, *without: Side) -> None:
        """Be the one who moves them, when nothing of those sides is under way.

        Raises:
            DeadlineExceeded: naming the side.

        """
        until = time.monotonic() + self._seconds

        def free() -> bool:
            hurried = self._hurried()
            held = [side for side in without if self._holds[side] and not (side == "engines" and hurried)]
            return self._mover is None and not held

        with self._changed:
            while not free():
                if time.monotonic() >= until:
                    who = next((side for side in without if self._holds[side]), "the move under way")
                    raise DeadlineExceeded(f"waited {self._seconds:g} s for the devices that {who} did not give back")
                self._changed.wait(_LOOK_SECONDS)
            self._mover = threading.get_ident()

    def _end(self) -> None:
        with self._changed:
            self._mover = None
            self._changed.notify_all()

    def _to_learners(self) -> None:
        if self._awake and self._engines is not None:
            at_once = bool(self._holds["engines"])
            with self._timed("sleep", "engines sleep"):
                used = self._engines.sleep(at_once)
            self._awake = set()
            self._saw("engines", "engines_asleep", used)
        if not self._learners_on and self._learners is not None:
            with self._timed("onload", "learners take the devices"):
                self._learners.take_device()
            self._learners_on = True

    def _to_engines(self) -> None:
        if self._learners_on and self._learners is not None:
            with self._timed("offload", "learners leave the devices"):
                used = self._learners.leave_device()
            self._learners_on = False
            self._saw("learners", "learners_off", used)
        for part in ("weights", "kv_cache"):
            self._wake(part)

    def _wake(self, part: str) -> None:
        if self._engines is not None and part not in self._awake:
            with self._timed("wake", f"engines wake: {part}"):
                self._engines.wake(part)
            self._awake.add(part)

    @contextmanager
    def _timed(self, name: str, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._seconds_of[name] += seconds
        log.info("turn: %s, %.3f s", what, seconds)

    def _saw(self, during: str, after: str, used: Sequence[MemoryUse]) -> None:
        """Keep what the fullest of them had."""
        if used:
            self._memory[f"memory/{during}"] = max(use.peak for use in used) / _GIB
            self._memory[f"memory/{after}"] = max(use.left for use in used) / _GIB
