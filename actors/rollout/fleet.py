"""The handle to all rollout workers: spreads prompts, merges the streams, updates every engine's weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from actors.deadlines import ActorFailed, NamedActor, get, wait
from actors.failures import kind_of
from actors.messages import Added, GenerationFailure, LoadedWeights, MemoryUse, Prompt, Sampling, Trace, WeightUpdate
from actors.rollout.roster import Revival, Roster, refuse_other
from actors.rollout.streams import Call, Traffic
from actors.turns import Together

_BEAT_SECONDS = 90.0
"""For an engine to say that it lives, or Ray that its node does not, where sending to all of them has failed."""


class EnginesLost(ActorFailed):
    """Engines died while weights were sent to all of them together, so that the others did not get them either."""


class RolloutFleet:
    """Ray actors of :class:`actors.rollout.worker.RolloutWorker`, used as one.

    With a :class:`~actors.rollout.roster.Revival` an engine that dies ends no call: the samples that it still owed are
    asked of the others, and it comes back when it holds the current weights.
    """

    def __init__(
        self,
        workers: Sequence[NamedActor],
        timeout: float,
        revival: Revival | None = None,
        turns: Together | None = None,
    ) -> None:
        """``turns``: with learners on the same devices; None: the devices are the engines' own."""
        self._turns = turns or Together()
        self.roster = Roster(workers, timeout, revival, self._turns)
        self.as_loaded = True
        """Whether engines hold what they loaded when they started; False once they have been given other weights."""
        self._timeout = timeout
        self._traffic = Traffic(self.roster, timeout, [0] * len(workers))

    @property
    def workers(self) -> list[NamedActor]:
        """In the order of their numbers, those that are being brought back included."""
        return self.roster.workers

    def start(self, version: int, seconds: float) -> None:
        """Wait until every engine is warm.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker.

        """
        self._all("start", version, what="rollout engines to start", seconds=seconds)
        self._turns.attach(engines=self)

    def _all(self, method: str, *arguments: Any, what: str, seconds: float) -> list[Any]:
        """Call every worker with the same arguments and wait for all answers."""
        references = [getattr(worker.handle, method).remote(*arguments) for worker in self.workers]
        return get(references, seconds, what, self.workers)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Stream the traces of all prompts from all workers, in lists as they finish.

        Each prompt goes to the worker with the fewest unfinished traces; prompts of equal tokens go to the same one,
        whose engine computes them once. A request that failed is asked for once more. A prompt's uid occurs once. What
        is not read to its end is not written to its end.

        Raises:
            DeadlineExceeded: no trace of a worker finished in time.
            ActorFailed: a worker died, and none can be restarted; or it raised.
            RestartsExhausted: workers died too often.

        """
        return cast(Any, self._in_turn(Call(self._traffic, sampling), prompts))

    def watch(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """As :meth:`generate`, and what is written of each trace until it is finished, as it grows.

        Its reader has seen what was written, so nothing is written twice: a request that failed is a failure, and an
        engine that dies ends it.
        """
        return self._in_turn(Call(self._traffic, sampling, watched=True), prompts)

    async def _in_turn(
        self, call: Call, prompts: Sequence[Prompt]
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        async with self._turns.engines(), aclosing(cast(Any, call.items(prompts))) as items:
            async for item in items:
                yield item

    def sleep(self, at_once: bool) -> list[MemoryUse]:
        """Let the engines at work give their devices' memory back; ``at_once``: without the ends of what they write."""
        return self._of_those_at_work("sleep", at_once, what="rollout engines to sleep")

    def wake(self, part: str) -> None:
        """Let them take memory again for ``weights`` or ``kv_cache``."""
        self._of_those_at_work("wake", part, what=f"rollout engines to wake ({part})")

    def _of_those_at_work(self, method: str, *arguments: Any, what: str) -> list[Any]:
        """Call them all and wait for all answers; those that die meanwhile are brought back."""
        workers = [self.workers[index] for index in self.roster.present()]
        references = {worker.name: getattr(worker.handle, method).remote(*arguments) for worker in workers}
        while True:
            try:
                return get([references[worker.name] for worker in workers], self._timeout, what, workers)
            except ActorFailed as error:
                dead = self._dead(error, workers, together=False)
                if not dead:
                    raise
                workers = [worker for worker in workers if worker not in dead]

    async def unfinished(self) -> int:
        """Traces that the engines write or have waiting, whoever asked for them.

        Raises:
            DeadlineExceeded, ActorFailed: an engine does not answer, or has died.

        """
        what = "the number of unfinished traces"
        counts = [wait(worker.handle.unfinished.remote(), self._timeout, what, worker) for worker in self.workers]
        return sum(await asyncio.gather(*counts))

    def update_weights(
        self,
        update: WeightUpdate,
        sending: Sequence[tuple[Any, NamedActor]] = (),
        receivers: Sequence[NamedActor] | None = None,
    ) -> float:
        """Load new weights on every engine at work, in flight; returns the longest pause in seconds.

        ``sending`` are Ray references of those who send them meanwhile, and who that is; their errors end the wait too.
        Where ``update`` only announces what is being gathered, one of them answers with what it was.
        ``receivers`` are the engines that they send to; None: all at work.
        An engine that dies meanwhile gets them when it comes back.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker or the sender.
            EnginesLost: engines died, and with ``sending`` the others got nothing.
            WeightsDiffer: an engine says that it holds another version, or other bytes.

        """
        self.as_loaded = False
        at_work = self.roster.begin_publishing()
        workers = at_work if receivers is None else list(receivers)
        loaded_by: WeightUpdate | None = None
        try:
            references = {worker.name: worker.handle.update_weights.remote(update) for worker in workers}
            what = f"engines to load weight version {update.version}"
            while True:
                asked = [*(references[worker.name] for worker in workers), *(reference for reference, _ in sending)]
                try:
                    answers = get(asked, self._timeout, what, [*workers, *(sender for _, sender in sending)])
                    break
                except ActorFailed as error:
                    dead = self._dead(error, workers, bool(sending))
                    if not dead:
                        raise
                    workers = [worker for worker in workers if worker not in dead]
                    if sending:
                        raise EnginesLost(str(error)) from error
            loaded: list[LoadedWeights] = answers[: len(workers)]
            update = next((answer for answer in answers[len(workers) :] if answer is not None), update)
            for worker, held in zip(workers, loaded, strict=True):
                refuse_other(worker, held, update)
            loaded_by = update
            return max((held.pause_seconds for held in loaded), default=0.0)
        finally:
            self.roster.end_publishing(loaded_by)

    def _dead(self, error: ActorFailed, workers: Sequence[NamedActor], together: bool) -> list[NamedActor]:
        """Workers that have died, which are brought back from now on; ``together``: one's death fails all of them."""
        if not self.roster.can_restart:
            return []
        dead = [worker for worker in workers if error.actor is worker and error.kind in ("engine", "node")]
        for worker in workers if together and not dead else ():
            try:
                get([worker.handle.beat.remote()], _BEAT_SECONDS, f"{worker.name} to say that it lives", [worker])
            except ActorFailed as failed:
                if kind_of(failed) in ("engine", "node"):
                    dead.append(worker)
        for worker in dead:
            self.roster.lost(worker, error)
        return dead

    def stop(self, seconds: float = 30.0) -> None:
        """End the engines' processes."""
        self.roster.close()
        self._all("stop", what="rollout engines to stop", seconds=seconds)
