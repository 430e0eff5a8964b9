"""Which engines are at work, and the way back for one that died: restarted, given the current weights, then work.

Work, weights and deaths come from different threads; whatever they share is here, under one lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from actors.deadlines import ActorFailed, NamedActor, get, settled
from actors.messages import LoadedWeights, WeightUpdate
from actors.restarts import Fault, Faults, StartTime
from actors.turns import Together

_LOOK_SECONDS = 1.0
"""How often who waits for workers looks whether anybody can bring them back."""

Deliver = Callable[[NamedActor, WeightUpdate], LoadedWeights]
"""Gives one engine weights that were published before."""


@dataclass(frozen=True, slots=True)
class Revival:
    """How engines are brought back."""

    restart: Callable[[int, NamedActor], NamedActor]
    """Ends what is left of worker number ``index`` and starts another in its place, without waiting for it. Raises
    where all workers are being ended."""
    at_work: Callable[[NamedActor], None]
    """Called with a worker that is back at work."""
    faults: Faults
    start: StartTime


class Roster:
    """Workers by number: at work, or being brought back."""

    def __init__(self, workers: Sequence[NamedActor], timeout: float, revival: Revival | None, turns: Together) -> None:
        self.workers = list(workers)
        self.deliver: Deliver = self._by_file
        self._timeout = timeout
        self._revival = revival
        self._turns = turns
        self._changed = threading.Condition()
        self._absent: dict[int, Future[None]] = {}
        """Workers that are being brought back; a future is done when its worker is at work, or never will be."""
        self._published: WeightUpdate | None = None
        """What engines hold; None: what they loaded when they started."""
        self._is_publishing = False
        self._are_gone = False
        """Whether a worker waits for weights because those that were published cannot be had any more."""
        self._no_publisher: ActorFailed | None = None
        """Why nobody publishes weights now."""
        self._failure: Exception | None = None
        self._is_closed = False

    @property
    def can_restart(self) -> bool:
        """Whether workers that die come back."""
        return self._revival is not None

    def present(self) -> list[int]:
        """Numbers of the workers at work.

        Raises:
            Exception: what ended the attempts to bring a worker back.

        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            return [index for index in range(len(self.workers)) if index not in self._absent]

    async def some_present(self) -> list[int]:
        """As :meth:`present`; waits while there is none.

        Raises:
            ActorFailed: they wait for weights, and who would publish them waits for traces, and is dead.

        """
        while not (found := self.present()):
            with self._changed:
                coming = [asyncio.wrap_future(future) for future in self._absent.values()]
                if self._are_gone and self._no_publisher is not None:
                    raise self._no_publisher
            if coming:
                await asyncio.wait(coming, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return found

    def learner_lost(self, rank: NamedActor, error: ActorFailed) -> None:
        """Nobody publishes weights until others are in the place of the learners."""
        with self._changed:
            self._no_publisher = error

    def lost(self, worker: NamedActor, error: ActorFailed) -> None:
        """A worker is dead: it gets no more work, and is brought back. Nothing if that was known.

        Raises:
            RestartsExhausted: it may not be restarted.

        """
        with self._changed:
            index = next((at for at, other in enumerate(self.workers) if other is worker), None)
            if index is None or index in self._absent or self._is_closed:
                return
            self._absent[index] = Future()
        threading.Thread(target=self._bring_back, args=(index, worker, error), daemon=True).start()

    def begin_publishing(self) -> list[NamedActor]:
        """New weights are on their way, and the ones before cannot be had any more; who is at work to be given them."""
        with self._changed:
            self._is_publishing, self._no_publisher = True, None
        return [self.workers[index] for index in self.present()]

    def end_publishing(self, update: WeightUpdate | None) -> None:
        """All that are at work hold ``update``; None: it did not come to that."""
        with self._changed:
            self._is_publishing = False
            self._are_gone = self._are_gone and update is None
            self._published = update or self._published
            self._changed.notify_all()

    def close(self) -> None:
        """Bring nobody back any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _bring_back(self, index: int, worker: NamedActor, error: ActorFailed) -> None:
        assert self._revival is not None
        faults, dead = self._revival.faults, worker
        while True:
            try:
                if self._is_closed:
                    return
                error = settled(error)
                then = "it is restarted, others take its prompts"
                fault = faults.noticed("engine", worker.name, error.why, then, node=error.node)
                with self._turns.restarting():
                    dead = self._revival.restart(index, dead)
                    self._return(index, dead, fault)
                return
            except Exception as failed:
                if self._is_closed:
                    return
                if not isinstance(failed, ActorFailed) or failed.kind is None:
                    self._give_up(index, failed)
                    return
                error = failed

    def _return(self, index: int, worker: NamedActor, fault: Fault) -> None:
        """Let a new worker start, give it what the others hold, and let it work."""
        assert self._revival is not None
        revival, held = self._revival, None
        revival.start.wait([worker.handle.start.remote(0)], f"{worker.name} to start again", [worker])
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_publishing or self._is_closed)
                newest = self._published
                if self._is_closed:
                    return
                if newest is held:
                    self.workers[index] = worker
                    self._absent.pop(index).set_result(None)
                    break
            try:
                self.deliver(worker, newest)  # type: ignore[arg-type]
                held = newest
            except Exception as error:
                if isinstance(error, WeightsDiffer) or (isinstance(error, ActorFailed) and _is_dead(error, worker)):
                    raise
                if self._turns.on_same_devices:
                    raise  # Whoever could publish others waits for the devices that are kept for this start.
                # Weights may be gone: they are being replaced, or the learner that wrote them has died. Those that
                # follow are given to it instead.
                with self._changed:
                    self._are_gone = self._published is newest
                    others = self._changed.wait_for(partial(self._is_over, newest), self._timeout)
                if not others:
                    raise
        revival.at_work(worker)
        revival.faults.back(fault, f", with weight version {held.version if held else 0}")

    def _is_over(self, update: WeightUpdate | None) -> bool:
        return self._published is not update or self._is_closed

    def _by_file(self, worker: NamedActor, update: WeightUpdate) -> LoadedWeights:
        what = f"{worker.name} to load weight version {update.version}"
        [held] = get([worker.handle.update_weights.remote(update)], self._timeout, what, [worker])
        refuse_other(worker, held, update)
        return held

    def _give_up(self, index: int, failure: Exception) -> None:
        with self._changed:
            self._failure = failure
            self._absent.pop(index).set_result(None)
            self._changed.notify_all()


class WeightsDiffer(ActorFailed):
    """An engine holds other weights than the learners published; names it and both versions and checksums."""


def refuse_other(worker: NamedActor, held: LoadedWeights, update: WeightUpdate) -> None:
    """Refuse an engine that holds something else than was published.

    Raises:
        WeightsDiffer: naming it.

    """
    if (held.version, held.checksum) != (update.version, update.checksum):
        raise WeightsDiffer(
            f"{worker} holds weight version {held.version} with checksum {held.checksum:#010x}, the learners "
            f"published version {update.version} with {update.checksum:#010x}"
        )


def _is_dead(error: ActorFailed, worker: NamedActor) -> bool:
    return error.actor is worker and error.kind in ("engine", "node")
