"""Between engines and learners: the rollout batches that are being written, and when the next one may begin."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, Protocol, Self, TypeVar

from actors.messages import ScoredGroup
from pipelines.loop.rollouts import Arrived, RolloutBatch


class Cancellable(Protocol):
    """Work under way that can be given up."""

    def cancel(self) -> None: ...


Batch = TypeVar("Batch", bound=Cancellable)


class RolloutBuffer(Generic[Batch]):
    """Rollout batches begun and not yet taken to be trained on. It decides when one begins; it knows no engines.

    As a context manager it cancels, at its end, the batches that it still holds.

    The batch of step s is trained on when the weights have version s. With v the version that was published last and k
    the staleness allowed, always:

    - Batches begin in the order of steps and are taken in that order, each once: none is thrown away or overtaken, so
      long traces are not starved.
    - The batch of step s begins only when s <= v + k: it is trained on at most k versions after it was begun.
    - At most k + 1 batches are held, and before the last step never fewer than one after a publish.
    """

    def __init__(self, begin: Callable[[int], Batch], first: int, total: int, max_staleness: int) -> None:
        self._begin = begin
        self._next = first
        self._total = total
        self._max_staleness = max_staleness
        self._held: deque[Batch] = deque()

    def published(self, version: int) -> None:
        """The engines have the weights of ``version``: begin every batch that now may be."""
        while self._next < self._total and self._next <= version + self._max_staleness:
            self._held.append(self._begin(self._next))
            self._next += 1

    def take(self) -> Batch:
        """The oldest batch, to be trained on now.

        Raises:
            IndexError: there is none: weights were not published since the last was taken, or all steps are done.

        """
        return self._held.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for batch in self._held:
            batch.cancel()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


class RolloutUnderWay:
    """A rollout batch that is being written: gives complete groups on the way, and the whole batch at the end."""

    def __init__(self, work: Callable[[Arrived], Coroutine[Any, Any, RolloutBatch]]) -> None:
        self._ready: list[ScoredGroup] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(work(self._arrived))
        self._task.add_done_callback(lambda _: self._news.set())

    def _arrived(self, group: ScoredGroup) -> None:
        self._ready.append(group)
        self._news.set()

    async def portions(self, tokens: float) -> AsyncIterator[list[ScoredGroup]]:
        """Yields complete groups once they hold at least ``tokens`` tokens; ends when the batch is whole.

        Each group comes once. The last ones, which were too few for another portion, are only in :meth:`whole`.
        """
        while not self._task.done():
            await self._news.wait()
            self._news.clear()
            if not self._task.done() and sum(map(_tokens, self._ready)) >= tokens:
                portion, self._ready = self._ready, []
                yield portion

    async def whole(self) -> RolloutBatch:
        """All groups in the order of their prompts.

        Raises:
            Exception: whatever ended the writing early.

        """
        return await self._task

    def cancel(self) -> None:
        """Stop writing the batch."""
        self._task.cancel()


def _tokens(group: ScoredGroup) -> int:
    prompt = len(group.prompt.token_ids)
    return sum(prompt + len(item.trace.token_ids) for item in group.traces)
