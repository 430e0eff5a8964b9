"""The rollout worker's streams. No engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.messages import Sampling
from actors.rollout.worker import RolloutWorker


class Writing:
    """An engine that writes without an end, and knows when nobody reads any more."""

    def __init__(self) -> None:
        self.is_read = False

    async def generate(self, *_: Any) -> AsyncIterator[list[int]]:
        self.is_read = True
        try:
            while True:
                yield [1]
                await asyncio.sleep(0)
        finally:
            self.is_read = False

    watch = generate


@pytest.mark.parametrize("way", ["generate", "watch"])
def test_what_nobody_reads_ends_with_its_reader(way: str) -> None:
    worker = object.__new__(RolloutWorker)
    worker._engine = engine = Writing()  # type: ignore[assignment]

    async def read() -> None:
        stream = getattr(worker, way)([], Sampling())
        assert await anext(stream) == [1]
        assert engine.is_read
        await stream.aclose()
        assert not engine.is_read

    asyncio.run(read())
