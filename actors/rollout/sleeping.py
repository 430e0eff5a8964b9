"""An engine that gives its device's memory back for a while."""

from __future__ import annotations

from typing import Any

from actors.messages import MemoryUse


class Sleeping:
    """The sleep of one ``AsyncLLM``, which schedules nothing until all of it is awake again."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.now = False
        """Whether it sleeps, or some part of it."""

    async def fall(self, at_once: bool) -> MemoryUse:
        """Give the device's memory back when what is under way has ended; ``at_once``: it is given up.

        vLLM's level 1: weights go into the machine's memory, the cache is dropped. On CPU vLLM keeps both and stops
        scheduling alone, by the same calls in the same order.
        """
        before = await self._memory()
        await self._llm.sleep(level=1, mode="abort" if at_once else "wait")
        self.now = True
        return MemoryUse(before, await self._memory())

    async def wake(self, part: str) -> None:
        """Take the device's memory again for a part, ``weights`` or ``kv_cache``."""
        self.now = not await self._llm.wake_up([part])

    async def _memory(self) -> int:
        """Of the engine's process that has most."""
        return max(await self._llm.collective_rpc("memory_in_use"))
