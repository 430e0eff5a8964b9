"""The supply of a training loop: items of the stream of prompts are written and scored, and given to its steps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Self

from actors.messages import ScoredGroup
from pipelines.config import Config
from pipelines.data.order import rounds_of, slice_of_stream
from pipelines.loop.buffer import BufferSizes, GroupBuffer
from pipelines.loop.generation import Generation, items_per_step
from pipelines.loop.journal import Journal
from pipelines.loop.rollouts import RolloutBatch, ScoredItem
from pipelines.stages.inputs import JudgingTask

Arrived = Callable[[ScoredGroup], None]
"""Called with each group of a step when the step has it."""


class StepUnderWay:
    """The rollout batch of a step that is coming together: complete groups on the way, the whole batch at the end."""

    def __init__(self, work: Callable[[Arrived], Coroutine[Any, Any, RolloutBatch]]) -> None:
        self._ready: list[ScoredGroup] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(work(self._arrived))
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[RolloutBatch]) -> None:
        if not task.cancelled():
            # Known to asyncio as looked at: of several steps that an error ends, the loop asks for one only.
            task.exception()
        self._news.set()

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
        """All groups in the order of their prompts in the stream.

        Raises:
            Exception: whatever ended the writing early.

        """
        return await self._task

    def cancel(self) -> None:
        """Give the batch up."""
        self._task.cancel()


class Supply:
    """Keeps engines at work on the items of the stream, as far as the buffer allows, and forms the batches of steps.

    Items become complete one by one, and none waits for those that began with it. Steps are given items in the order of
    steps, up to ``algorithm.max_staleness`` steps before they are trained on: refills of a step are written while the
    learners are at the steps before it. As a context manager it ends, at its end, all that is under way.
    """

    def __init__(
        self,
        config: Config,
        generation: Generation,
        task: JudgingTask,
        steps: range,
        state: Mapping[str, Any] | None,
        journal: Journal | None = None,
    ) -> None:
        """``steps`` are those still to be taken; ``state`` is what :meth:`state` gave before them, if they have any.

        What the ``journal`` has is not generated again, and it is told of what is.
        """
        self._journal = journal
        self._generation = generation
        generation.released = self._written
        self._sizes = buffer_sizes(config, task, steps.stop)
        self._item_at = lambda position: slice_of_stream(len(task.items), config.seed, position, position + 1)[0]
        self._buffer: GroupBuffer[ScoredItem] = GroupBuffer(self._sizes, steps.start, state)
        self._to_begin = deque(steps)
        self._steps: deque[StepUnderWay] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        """Held by the step that is being given its items: steps get theirs in order."""
        self._news = asyncio.Event()
        self._error: BaseException | None = None

    def published(self, version: int) -> None:
        """The engines have the weights of ``version``: begin all items, and form all steps, that now may be."""
        self._buffer.published(version)
        self._generation.go_on()
        self._begin_items()
        while self._to_begin and self._to_begin[0] <= version + self._sizes.max_staleness:
            self._steps.append(StepUnderWay(partial(self._step, self._to_begin.popleft())))

    def next_step(self) -> StepUnderWay:
        """The batch of the next step, to be trained on now.

        Raises:
            IndexError: there is none: weights were not published since the last was taken, or all steps are done.

        """
        return self._steps.popleft()

    def state(self) -> dict[str, Any]:
        """See :meth:`GroupBuffer.state`."""
        return self._buffer.state()

    def gauges(self, step: int) -> dict[str, float]:
        """See :meth:`GroupBuffer.gauges`."""
        return self._buffer.gauges(step)

    def _begin_items(self) -> None:
        positions = self._buffer.begin()
        while there := [position for position in positions if self._journal and position in self._journal.complete]:
            for position in there:
                assert self._journal is not None
                self._buffer.ended(self._sizes.traces)
                self._buffer.complete(position, self._journal.complete.pop(position))
            self._news.set()
            positions = [position for position in positions if position not in there] + self._buffer.begin()
        items = [self._item_at(position) for position in positions]
        for places in rounds_of(items):
            task = asyncio.create_task(
                self._generation.write(
                    [items[place] for place in places],
                    partial(self._complete, [positions[place] for place in places]),
                    self._written,
                )
            )
            self._writing.add(task)
            task.add_done_callback(self._ended)

    def _written(self, traces: int) -> None:
        """So many traces ended, or left their engines for now; negative: so many went on."""
        self._buffer.ended(traces)
        if traces > 0:
            self._begin_items()
            # What is left of the room is for those that made room for others: no engine waits, and no step for ever.
            self._generation.go_on(self._buffer.free)

    def _complete(self, positions: Sequence[int], index: int, item: ScoredItem) -> None:
        if self._journal is not None:
            self._journal.add(positions[index], item)
        self._buffer.complete(positions[index], item)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self._news.set()

    async def _step(self, step: int, arrived: Arrived) -> RolloutBatch:
        """The step's items as a batch, in the order of the stream; refills come after them.

        ``arrived`` is called for the step's own groups, not for refills, which may exceed what is wanted.
        """
        taken: dict[int, ScoredItem] = {}
        async with self._turn:
            for _ in range(self._sizes.of_step(step)):
                position, item = await self._first_complete()
                taken[position] = item
                for group in item.groups:
                    arrived(group)
        positions = sorted(taken)
        batch = RolloutBatch.of([taken[position] for position in positions])
        return await self._generation.refill(batch, step, [self._item_at(position) for position in positions])

    async def _first_complete(self) -> tuple[int, ScoredItem]:
        while (found := self._buffer.take()) is None:
            if self._error is not None:
                raise self._error
            await self._news.wait()
            self._news.clear()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for step in self._steps:
            step.cancel()
        for task in self._writing:
            task.cancel()


def buffer_sizes(config: Config, task: JudgingTask, steps: int) -> BufferSizes:
    """The sizes of the buffer of an RL stage of so many steps."""
    per_step, rollout, samples = items_per_step(config, task), config.rollout, config.algorithm.samples
    return BufferSizes(
        per_step=per_step,
        items=min(len(task.items) * config.rl.epochs, steps * per_step),
        traces=task.prompts_per_item * samples,
        max_staleness=config.algorithm.max_staleness,
        # Beyond what an engine writes at once, a group waits at each, so that none is without work when traces end.
        slots=rollout.workers * (rollout.max_sequences + samples),
    )


def _tokens(group: ScoredGroup) -> int:
    prompt = len(group.prompt.token_ids)
    return sum(prompt + len(item.trace.token_ids) for item in group.traces)
