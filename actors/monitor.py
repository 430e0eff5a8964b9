"""Listens to the actors of a job: a thread that asks each how far it is, and kills one that stands still for too long.

Killing is all it does about it: a process that is stuck then looks like one that died, and has the same way back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors.deadlines import ActorFailed, NamedActor, failure
from actors.liveness import Beat, Liveness, Patience, State
from actors.processes import Processes, kill_on_node

log = logging.getLogger(__name__)

Lost = Callable[[NamedActor, ActorFailed], None]
"""Told of an actor that is dead."""

_EVERY_SECONDS = 1.0
_AWAY_SECONDS = 10.0
"""A round that took longer than this was not listening all the time: this process was stopped, or short of a core."""


class Stuck(ActorFailed):
    """An actor stood still past its deadline and was killed."""


@dataclass(slots=True)
class _Watched:
    actor: NamedActor
    liveness: Liveness
    lost: Lost
    group: str | None
    """Ray's concurrency group of its calls; None: the actor answers while it works."""
    processes: Processes | None = None
    asked: Any = None
    """Ray reference of its answer."""
    is_over: bool = False
    """Whether it is asked no more."""
    said: State = "healthy"


class Monitor:
    """Watches actors that answer ``beat`` and ``processes``."""

    def __init__(self, every: float = _EVERY_SECONDS) -> None:
        self._every = every
        self._watched: dict[str, _Watched] = {}
        self._known: dict[str, Liveness] = {}
        """By name: another in the same place is as fast."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, actor: NamedActor, patience: Patience, lost: Lost, group: str | None = None) -> None:
        """Listen to an actor that is up, in the place of one of the same name."""
        with self._lock:
            liveness = self._known.setdefault(actor.name, Liveness(patience, 0.0))
            liveness.back(time.monotonic())
            self._watched[actor.name] = _Watched(actor, liveness, lost, group)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
                self._thread.start()

    def forget(self, actor: NamedActor) -> Processes | None:
        """Listen to an actor no more; returns its processes as far as they are known."""
        with self._lock:
            watched = self._watched.get(actor.name)
            if watched is None or watched.actor is not actor:
                return None
            del self._watched[actor.name]
            return watched.processes

    def close(self) -> None:
        """Listen to nobody any more."""
        with self._lock:
            self._watched.clear()
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10 * self._every)

    def _run(self) -> None:
        import ray

        last = time.monotonic()
        while not self._ended.wait(self._every):
            began = time.monotonic()
            with self._lock:
                watched = list(self._watched.values())
            if began - last > _AWAY_SECONDS:
                for one in watched:
                    one.liveness.excuse(began - last)
            for one in watched:
                self._guarded(self._ask, one)
            if asked := [one.asked for one in watched if one.asked is not None and not one.is_over]:
                ray.wait(asked, num_returns=len(asked), timeout=self._every)
            # Those that do not answer first: others may stand still because they wait for them.
            for one in sorted(watched, key=lambda one: one.liveness.heard):
                self._guarded(self._listen, one)
            last = began

    def _guarded(self, step: Callable[[_Watched], None], one: _Watched) -> None:
        """Others are listened to whatever is wrong with one."""
        try:
            if not one.is_over:
                step(one)
        except Exception:
            one.is_over = True
            log.warning("%s cannot be listened to", one.actor.name, exc_info=True)

    def _ask(self, one: _Watched) -> None:
        """Ask for an answer, unless one is awaited."""
        if one.asked is None:
            method = one.actor.handle.beat if one.processes else one.actor.handle.processes
            one.asked = (method.options(concurrency_group=one.group) if one.group else method).remote()

    def _listen(self, one: _Watched) -> None:
        import ray
        from ray.exceptions import RayError

        ready, _ = ray.wait([one.asked], timeout=0.0)
        if ready:
            try:
                answer = ray.get(one.asked, timeout=_AWAY_SECONDS)
            except RayError as error:
                self._tell(one, failure(error, "a sign of life", one.actor))
                return
            one.asked = None
            if isinstance(answer, Processes):
                one.processes = answer
                answer = Beat(0, "")
            one.liveness.beat(answer, time.monotonic())
        state = one.liveness.state(time.monotonic())
        if state == "suspect" != one.said:
            log.info("%s has not moved for half of its %.0f s", one.actor.name, one.liveness.deadline())
        one.said = state
        if state == "dead":
            seconds = time.monotonic() - one.liveness.since
            stuck = Stuck(f"{one.actor} was stuck: it did not move for {seconds:.0f} s, and was killed")
            stuck.kind, stuck.actor = one.actor.kind, one.actor
            # First, so that this is the reason that is told, not the death that follows.
            self._tell(one, stuck)
            if one.processes is not None:
                kill_on_node(one.processes)
            else:
                ray.kill(one.actor.handle)

    def _tell(self, one: _Watched, error: ActorFailed) -> None:
        """Say that an actor is lost, and ask it no more. What it raised besides is for whoever calls it next."""
        one.is_over = True
        log.info("%s", error)
        if error.kind is not None:
            one.lost(one.actor, error)
