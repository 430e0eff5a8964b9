"""Steps of an engine, counted as they arrive. No engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from actors.rollout.steps import Steps


class Core:
    """Answers after each of these seconds."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)

    async def get_output_async(self) -> str:
        await asyncio.sleep(self._seconds.pop(0))
        return "outputs"


@pytest.mark.slow
def test_each_is_counted_and_the_longest_is_measured_from_when_there_was_something_to_do() -> None:
    core, steps = Core(0.5, 0.2), Steps()
    steps.count_those_of(core)

    async def receive() -> None:
        waiting = asyncio.create_task(core.get_output_async())
        await asyncio.sleep(0.45)
        steps.asked = time.monotonic()
        assert await waiting == "outputs"
        assert steps.count == 1
        idle = steps.longest
        assert await core.get_output_async() == "outputs"
        assert steps.count == 2
        assert idle < steps.longest
        assert steps.longest >= 0.19

    asyncio.run(receive())
