"""The rollout worker: a Ray actor that owns one engine and moves messages in and out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from actors.collector import collect_seldom
from actors.interfaces import use_nodes_interface
from actors.liveness import Beat
from actors.logs import redirect_output
from actors.messages import (
    Added,
    ChannelTerms,
    GenerationFailure,
    LoadedWeights,
    MemoryUse,
    Prompt,
    Sampling,
    Trace,
    WeightUpdate,
)
from actors.processes import Processes, of_this_actor
from actors.rollout.engine import Engine
from actors.rollout.settings import EngineSettings


class RolloutWorker:
    """Writes traces. Made a Ray actor by the session, which knows the resources."""

    def __init__(self, settings: EngineSettings, log_path: str | None = None) -> None:
        redirect_output(log_path)
        collect_seldom()
        use_nodes_interface()
        self._engine = Engine(settings)

    async def start(self, version: int) -> None:
        """Warm up and name the weights that were loaded."""
        await self._engine.start(version)

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, samples: Sequence[Sequence[int]] | None = None
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """Stream traces in lists as they finish; every sample of every prompt arrives once, as trace or failure.

        ``samples`` are the numbers of those wanted of each prompt; None: all.
        """
        # Closed at once when its caller goes away, not when the garbage collector comes to it.
        async with aclosing(self._engine.generate(prompts, sampling, samples)) as stream:
            async for finished in stream:
                yield finished

    async def watch(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """As :meth:`generate`, and what is written of each trace until it is finished."""
        async with aclosing(self._engine.watch(prompts, sampling)) as stream:
            async for news in stream:
                yield news

    async def join_channel(self, terms: ChannelTerms, first_rank: int) -> None:
        """Join a weight channel with every process of the engine, as its members from ``first_rank`` on."""
        await self._engine.join_channel(terms, first_rank)

    async def update_weights(self, update: WeightUpdate) -> LoadedWeights:
        """Load published weights in flight; returns what the engine holds then."""
        return await self._engine.update(update)

    async def sleep(self, at_once: bool) -> MemoryUse:
        """Give the device's memory back; ``at_once``: without the ends of what is being written."""
        return await self._engine.sleeping.fall(at_once)

    async def wake(self, part: str) -> None:
        """Take memory again for ``weights`` or ``kv_cache``."""
        await self._engine.sleeping.wake(part)

    async def unfinished(self) -> int:
        """Traces that are being written or wait to be; raises where the engine has died."""
        return await self._engine.unfinished()

    async def beat(self) -> Beat:
        """How far the engine is, and what it is at."""
        return self._engine.beat()

    async def processes(self) -> Processes:
        """The actor's own process and the engine's."""
        return of_this_actor()

    async def stop(self) -> None:
        """End the engine's process before the actor goes."""
        self._engine.shutdown()
