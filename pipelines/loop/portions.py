"""Long traces in portions: after each, other prompts get the slot, and the trace goes on under newer weights."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from actors.rollout.fleet import RolloutFleet


class PortionedFleet:
    """A fleet whose traces leave their engine after every ``budget`` tokens, and go on when they are told to.

    What a trace has so far is then computed anew, under the weights of that time, on whichever engine has least to do.
    Every token keeps the log-probability and the version that it was written with.
    """

    def __init__(self, fleet: RolloutFleet, budget: int, released: Callable[[int], None]) -> None:
        """``released`` is called with how many traces have left engines; negative, when they go on."""
        self._fleet = fleet
        self._budget = budget
        self._released = released
        self._paused: deque[asyncio.Event] = deque()

    def go_on(self, traces: int | None = None) -> None:
        """Let so many of the traces that left engines go on, the first that left first; None: all of them."""
        for _ in range(len(self._paused) if traces is None else min(traces, len(self._paused))):
            self._paused.popleft().set()
            self._released(-1)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """See :meth:`RolloutFleet.generate`; traces come when they are whole."""
        whole: asyncio.Queue[list[Trace | GenerationFailure] | Exception] = asyncio.Queue()
        of = {prompt.uid: prompt for prompt in prompts}
        tasks: set[asyncio.Task[None]] = set()

        def begin(work: Coroutine[Any, Any, None]) -> None:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def write(prompts: Sequence[Prompt], samples: int, before: Trace | None = None) -> None:
            """Write one portion of the traces of some prompts; ``before`` is what its only trace has so far."""
            left = sampling.max_tokens - (0 if before is None else len(before.token_ids))
            portion = replace(sampling, samples=samples, max_tokens=min(self._budget, left))
            try:
                async for finished in self._fleet.generate(prompts, portion):
                    ended: list[Trace | GenerationFailure] = []
                    for end in (joined(before, end) for end in finished):
                        cut = isinstance(end, Trace) and end.finish_reason == "length"
                        if isinstance(end, Trace) and cut and len(end.token_ids) < sampling.max_tokens:
                            turn = asyncio.Event()
                            self._paused.append(turn)
                            begin(go_on(end, turn))
                            self._released(1)
                        else:
                            ended.append(end)
                    if ended:
                        whole.put_nowait(ended)
            except Exception as error:
                whole.put_nowait(error)

        async def go_on(trace: Trace, turn: asyncio.Event) -> None:
            await turn.wait()
            longer = replace(of[trace.prompt_uid], written=tuple(trace.token_ids.tolist()))
            await write([longer], 1, trace)

        begin(write(prompts, sampling.samples))
        missing = len(prompts) * sampling.samples
        try:
            while missing:
                ended = await whole.get()
                if isinstance(ended, Exception):
                    raise ended
                missing -= len(ended)
                yield ended
        finally:
            for task in tasks:
                task.cancel()


def joined(before: Trace | None, end: Trace | GenerationFailure) -> Trace | GenerationFailure:
    """A trace with the portions before; its text is of all of them already."""
    if before is None:
        return end
    if isinstance(end, GenerationFailure):
        return replace(end, sample=before.sample)
    return replace(
        end,
        sample=before.sample,
        token_ids=np.concatenate([before.token_ids, end.token_ids]),
        logprobs=np.concatenate([before.logprobs, end.logprobs]),
        versions=np.concatenate([before.versions, end.versions]),
    )
