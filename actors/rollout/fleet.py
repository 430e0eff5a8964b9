"""The handle to all rollout workers: spreads prompts, merges the streams, updates every engine's weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import numpy as np

from actors.deadlines import ActorFailed, NamedActor, get, wait
from actors.messages import Added, GenerationFailure, LoadedWeights, Prompt, Sampling, Trace, WeightUpdate


class WeightsDiffer(ActorFailed):
    """An engine holds other weights than the learners published; names it and both versions and checksums."""


class RolloutFleet:
    """Ray actors of :class:`actors.rollout.worker.RolloutWorker`, used as one."""

    def __init__(self, workers: Sequence[NamedActor], timeout: float) -> None:
        self.workers = list(workers)
        """In the order of their numbers."""
        self.as_loaded = True
        """Whether engines hold what they loaded when they started; False once they have been given other weights."""
        self._timeout = timeout
        self._in_flight = [0] * len(self.workers)
        """Traces each worker still owes."""

    def start(self, version: int, seconds: float) -> None:
        """Wait until every engine is warm.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker.

        """
        self._all("start", version, what="rollout engines to start", seconds=seconds)

    def _all(self, method: str, *arguments: Any, what: str, seconds: float) -> list[Any]:
        """Call every worker with the same arguments and wait for all answers."""
        references = [getattr(worker.handle, method).remote(*arguments) for worker in self.workers]
        return get(references, seconds, what, self.workers)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Stream the traces of all prompts from all workers, in lists as they finish.

        Each prompt goes to the worker with the fewest unfinished traces; prompts of equal tokens go to the same one,
        whose engine computes them once. What is not read to its end is not written to its end.

        Raises:
            DeadlineExceeded: no trace of a worker finished in time.
            ActorFailed: a worker died.

        """
        return cast(Any, self._stream("generate", prompts, sampling))

    def watch(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """As :meth:`generate`, and what is written of each trace until it is finished, as it grows."""
        return self._stream("watch", prompts, sampling)

    async def _stream(
        self, method: str, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        shares = _shares(prompts, sampling.samples, self._in_flight)
        owed = [len(share) * sampling.samples for share in shares]
        self._owe(owed, 1)
        merged: asyncio.Queue[tuple[int, list[Any]] | BaseException | None] = asyncio.Queue()
        readers = [
            asyncio.create_task(self._read(method, index, share, sampling, merged))
            for index, share in enumerate(shares)
            if share
        ]
        open_streams = len(readers)
        try:
            while open_streams:
                item = await merged.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    open_streams -= 1
                    continue
                index, news = item
                finished = sum(not isinstance(one, Added) for one in news)
                owed[index] -= finished
                self._in_flight[index] -= finished
                yield news
        finally:
            for reader in readers:
                reader.cancel()
            # What streams that failed, or were given up, never brought.
            self._owe(owed, -1)

    def _owe(self, traces: Sequence[int], sign: int) -> None:
        self._in_flight = [before + sign * more for before, more in zip(self._in_flight, traces, strict=True)]

    async def _read(
        self, method: str, index: int, prompts: Sequence[Prompt], sampling: Sampling, merged: asyncio.Queue
    ) -> None:
        """Move one worker's stream into ``merged``, each list with the worker's ``index``; ends with None, or with the
        error that ended it, whatever that is: the reader of ``merged`` waits for one of them.
        """
        import ray

        worker, what = self.workers[index], f"a trace of {len(prompts)} prompts"
        end: Exception | None = None
        stream: Any = None
        try:
            stream = getattr(worker.handle, method).options(num_returns="streaming").remote(list(prompts), sampling)
            while True:
                try:
                    reference = await wait(anext(stream), self._timeout, what, worker)
                except StopAsyncIteration:
                    break
                merged.put_nowait((index, await wait(reference, self._timeout, what, worker)))
        except asyncio.CancelledError:
            # Nobody reads the rest.
            ray.cancel(stream)
            raise
        except Exception as error:
            end = error
        merged.put_nowait(end)

    async def unfinished(self) -> int:
        """Traces that the engines write or have waiting, whoever asked for them.

        Raises:
            DeadlineExceeded, ActorFailed: an engine does not answer, or has died.

        """
        what = "the number of unfinished traces"
        counts = [wait(worker.handle.unfinished.remote(), self._timeout, what, worker) for worker in self.workers]
        return sum(await asyncio.gather(*counts))

    def update_weights(self, update: WeightUpdate, sending: Sequence[tuple[Any, NamedActor]] = ()) -> float:
        """Load new weights on every engine in flight; returns the longest pause in seconds.

        ``sending`` are Ray references of those who send them meanwhile, and who that is; their errors end the wait too.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker or the sender.
            WeightsDiffer: an engine says that it holds another version, or other bytes.

        """
        self.as_loaded = False
        references = [worker.handle.update_weights.remote(update) for worker in self.workers]
        answers = get(
            [*references, *(reference for reference, _ in sending)],
            self._timeout,
            f"engines to load weight version {update.version}",
            [*self.workers, *(sender for _, sender in sending)],
        )
        loaded: list[LoadedWeights] = answers[: len(references)]
        for worker, held in zip(self.workers, loaded, strict=True):
            if (held.version, held.checksum) != (update.version, update.checksum):
                raise WeightsDiffer(
                    f"{worker} holds weight version {held.version} with checksum {held.checksum:#010x}, the learners "
                    f"published version {update.version} with {update.checksum:#010x}"
                )
        return max(held.pause_seconds for held in loaded)

    def stop(self, seconds: float = 30.0) -> None:
        """End the engines' processes."""
        self._all("stop", what="rollout engines to stop", seconds=seconds)


def _shares(prompts: Sequence[Prompt], samples: int, in_flight: Sequence[int]) -> list[list[Prompt]]:
    """Prompts for each worker: in order, to whoever owes fewest traces by then, equal ones to one worker."""
    owed = list(in_flight)
    holders: dict[bytes, int] = {}
    shares: list[list[Prompt]] = [[] for _ in owed]
    for prompt in prompts:
        worker = holders.setdefault(np.asarray(prompt.token_ids, np.int32).tobytes(), owed.index(min(owed)))
        shares[worker].append(prompt)
        owed[worker] += samples
    return shares
