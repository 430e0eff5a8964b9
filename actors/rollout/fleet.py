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
        self._workers = list(workers)
        self._timeout = timeout
        self._next_worker = 0

    def start(self, version: int, seconds: float) -> None:
        """Wait until every engine is warm.

        Raises:
            DeadlineExceeded, ActorFailed: naming the worker.

        """
        get([worker.start.remote(version) for worker in self._workers], seconds, "rollout engines to start")

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Stream the traces of all prompts from all workers, in lists as they finish.

        Prompts of the same tokens go to the same worker, whose engine computes them once.

        Raises:
            DeadlineExceeded: no trace of a worker finished in time.
            ActorFailed: a worker died.

        """
        # Dealt out from where the last call ended, so that many calls of few prompts reach every worker.
        shares = _shares(prompts, len(self._workers), self._next_worker)
        self._next_worker = (self._next_worker + len(prompts)) % len(self._workers)
        merged: asyncio.Queue[list[Trace | GenerationFailure] | BaseException | None] = asyncio.Queue()
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
                else:
                    yield item
        finally:
            for reader in readers:
                reader.cancel()

    async def _read(self, index: int, prompts: Sequence[Prompt], sampling: Sampling, merged: asyncio.Queue) -> None:
        """Move one worker's stream into ``merged``; ends with None, or with the error that ended it."""
        from ray.exceptions import RayError

        stream = self._workers[index].generate.options(num_returns="streaming").remote(list(prompts), sampling)
        try:
            while True:
                try:
                    reference = await asyncio.wait_for(anext(stream), self._timeout)
                    merged.put_nowait(await reference)
                except StopAsyncIteration:
                    merged.put_nowait(None)
                    return
        except TimeoutError:
            merged.put_nowait(
                DeadlineExceeded(f"rollout worker {index}: no trace of {len(prompts)} prompts in {self._timeout:g} s")
            )
        except RayError as error:
            merged.put_nowait(ActorFailed(f"rollout worker {index} failed while generating: {error}"))

    def update_weights(self, update: WeightUpdate) -> float:
        """Load new weights on every engine in flight; returns the longest pause in seconds."""
        return max(
            get(
                [worker.update_weights.remote(update) for worker in self._workers],
                self._timeout,
                f"engines to load weight version {update.version}",
            )
        )

    def weight_versions(self) -> list[int]:
        """The version every engine reports."""
        return get([worker.weight_version.remote() for worker in self._workers], self._timeout, "weight versions")

    def stop(self, seconds: float = 30.0) -> None:
        """End the engines' processes."""
        get([worker.stop.remote() for worker in self._workers], seconds, "rollout engines to stop")


def _shares(prompts: Sequence[Prompt], workers: int, first: int) -> list[list[Prompt]]:
    """Prompts dealt out in turn from worker ``first`` on, equal ones to the worker that has the first of them."""
    turns: dict[tuple[int, ...], int] = {}
    shares: list[list[Prompt]] = [[] for _ in range(workers)]
    for prompt in prompts:
        shares[(first + turns.setdefault(prompt.token_ids, len(turns))) % workers].append(prompt)
    return shares
