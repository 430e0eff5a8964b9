"""The handle to all rollout workers: spreads prompts, merges the streams, updates every engine's weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from actors.deadlines import ActorFailed, DeadlineExceeded, get
from actors.messages import GenerationFailure, Prompt, Sampling, Trace, WeightUpdate


class RolloutFleet:
    """Ray actor handles of :class:`actors.rollout.worker.RolloutWorker`, used as one."""

    def __init__(self, workers: Sequence[Any], timeout: float) -> None:
        self.workers = list(workers)
        """Handles, in the order of their numbers."""
        self._timeout = timeout
        self._in_flight = [0] * len(self.workers)
        """Traces each worker still owes."""

    def start(self, version: int, seconds: float) -> None:
        """Wait until every engine is warm.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker.

        """
        get([worker.start.remote(version) for worker in self.workers], seconds, "rollout engines to start")

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Stream the traces of all prompts from all workers, in lists as they finish.

        A prompt goes to the worker that owes fewest traces, those of the same tokens to the same one, whose engine
        computes them once.

        Raises:
            DeadlineExceeded: no trace of a worker finished in time.
            ActorFailed: a worker died.

        """
        shares = _shares(prompts, sampling.samples, self._in_flight)
        owed = [len(share) * sampling.samples for share in shares]
        self._owe(owed, 1)
        merged: asyncio.Queue[tuple[int, list[Trace | GenerationFailure]] | BaseException | None] = asyncio.Queue()
        readers = [
            asyncio.create_task(self._read(index, share, sampling, merged))
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
                index, finished = item
                owed[index] -= len(finished)
                self._in_flight[index] -= len(finished)
                yield finished
        finally:
            for reader in readers:
                reader.cancel()
            # What streams that failed, or were given up, never brought.
            self._owe(owed, -1)

    def _owe(self, traces: Sequence[int], sign: int) -> None:
        self._in_flight = [before + sign * more for before, more in zip(self._in_flight, traces, strict=True)]

    async def _read(self, index: int, prompts: Sequence[Prompt], sampling: Sampling, merged: asyncio.Queue) -> None:
        """Move one worker's stream into ``merged``, each list with the worker's ``index``; ends with None, or with the
        error that ended it.
        """
        from ray.exceptions import RayError

        stream = self.workers[index].generate.options(num_returns="streaming").remote(list(prompts), sampling)
        try:
            while True:
                try:
                    reference = await asyncio.wait_for(anext(stream), self._timeout)
                    merged.put_nowait((index, await reference))
                except StopAsyncIteration:
                    merged.put_nowait(None)
                    return
        except TimeoutError:
            merged.put_nowait(
                DeadlineExceeded(f"rollout worker {index}: no trace of {len(prompts)} prompts in {self._timeout:g} s")
            )
        except RayError as error:
            merged.put_nowait(ActorFailed(f"rollout worker {index} failed while generating: {error}"))

    def update_weights(self, update: WeightUpdate, sending: Sequence[Any] = ()) -> float:
        """Load new weights on every engine in flight; returns the longest pause in seconds.

        ``sending`` are Ray references of those who send them meanwhile; their errors end the wait as well.
        """
        names = [f"rollout worker {index}" for index in range(len(self.workers))]
        names += ["the learner that sends"] * len(sending)
        references = [worker.update_weights.remote(update) for worker in self.workers]
        what = f"engines to load weight version {update.version}"
        answers = get([*references, *sending], self._timeout, what, names)
        return max(answers[: len(references)])

    def weight_versions(self) -> list[int]:
        """The version every engine reports."""
        return get([worker.weight_version.remote() for worker in self.workers], self._timeout, "weight versions")

    def stop(self, seconds: float = 30.0) -> None:
        """End the engines' processes."""
        get([worker.stop.remote() for worker in self.workers], seconds, "rollout engines to stop")


def _shares(prompts: Sequence[Prompt], samples: int, in_flight: Sequence[int]) -> list[list[Prompt]]:
    """Prompts for each worker: in order, to whoever owes fewest traces by then, equal ones to one worker."""
    owed = list(in_flight)
    holders: dict[tuple[int, ...], int] = {}
    shares: list[list[Prompt]] = [[] for _ in owed]
    for prompt in prompts:
        worker = holders.setdefault(prompt.token_ids, owed.index(min(owed)))
        shares[worker].append(prompt)
        owed[worker] += samples
    return shares
