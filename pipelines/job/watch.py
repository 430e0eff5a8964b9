"""Who listens to a session's actors, what counts as stuck, and what died so far."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from actors.deadlines import ActorFailed, NamedActor
from actors.learner.actor import BESIDE
from actors.liveness import Patience
from actors.monitor import Lost, Monitor, Stuck
from actors.processes import kill_if_here, kill_on_node
from actors.restarts import Faults
from pipelines.config import Config

log = logging.getLogger(__name__)

# How much longer than the longest standstill before it something may stand still.
_FACTOR = 10.0
# Of `cluster.step_timeout`, after which what is waited for is given up: what is stuck is to be found before.
_BEFORE_TIMEOUT = 0.9


class Watch:
    """Listens to actors that are up, from when it is told of them until they are ended."""

    def __init__(self, config: Config) -> None:
        cluster = config.cluster
        # A warning of ours is shown on the terminal, and in the report.
        self.faults = Faults(cluster.max_restarts, cluster.restart_window, log.warning)
        self._monitor = Monitor()
        self._patience = Patience(cluster.stuck_after, _FACTOR, _BEFORE_TIMEOUT * cluster.step_timeout)
        functions = config.verifier.functions.values()
        self._longest_function = max((function.deadline for function in functions), default=0.0)

    def over_worker(self, worker: NamedActor, lost: Lost) -> None:
        """Listen to a rollout worker; ``lost`` is told of its death."""
        self._monitor.watch(worker, replace(self._patience, is_up=True), lost)

    def over_verifier(self, verifier: NamedActor, is_awaited: Callable[[], bool]) -> None:
        """Listen to the verifier. A user's function has its own deadline, and is no reason to end the verifier.

        ``is_awaited``: whether somebody waits for it, who would learn of its death.
        """
        floor = self._patience.floor + self._longest_function
        patience = replace(self._patience, floor=floor, unmeasured=floor)
        self._monitor.watch(verifier, patience, partial(self._say, is_awaited=is_awaited))

    def over_learners(self, ranks: Iterable[NamedActor], lost: Lost, is_awaited: Callable[[], bool]) -> None:
        """Listen to learner ranks beside their work; all are started again when whoever waits for one learns of it.

        ``lost`` is told of a death at once. ``is_awaited``: whether somebody waits for them.
        """

        def told(rank: NamedActor, error: ActorFailed) -> None:
            self._say(rank, error, is_awaited)
            lost(rank, error)

        for rank in ranks:
            self._monitor.watch(rank, self._patience, told, BESIDE)

    def end(self, actors: Iterable[NamedActor]) -> None:
        """End actors that are to end, and what they started."""
        for actor in actors:
            processes = self._monitor.forget(actor)
            _kill(actor)
            if processes is not None:
                with contextlib.suppress(Exception):
                    kill_if_here(processes)

    def end_dead(self, actor: NamedActor) -> None:
        """End what is left of an actor whose place another takes, stopped processes too."""
        if (processes := self._monitor.forget(actor)) is not None:
            kill_on_node(processes)
        _kill(actor)

    def close(self) -> None:
        """Listen to nobody any more."""
        self._monitor.close()

    def _say(self, actor: NamedActor, error: ActorFailed, is_awaited: Callable[[], bool]) -> None:
        """Say what nobody else says: why one that was stuck dies, and that one died of which nothing is asked now."""
        if isinstance(error, Stuck):
            log.warning("%s", error)
        elif not is_awaited() and not self.faults.is_under_way(actor.kind):
            log.warning("%s %s; whoever waits for it, or asks it next, has it restarted", actor.name, error.why)


def _kill(actor: NamedActor) -> None:
    import ray

    with contextlib.suppress(Exception):
        ray.kill(actor.handle)
