"""Simulated engines answer as real ones do: every sample once, those that are asked for again alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.messages import GenerationFailure, Prompt, Sampling
from pipelines.speed import driver

PROMPTS = [Prompt(f"{number}/chosen_first", str(number), "chosen_first", "A", "bench", (1,)) for number in range(3)]


def answers(*samples: Any) -> list[Any]:
    async def collect() -> list[Any]:
        engines = driver.SimulatedEngines(0.0)
        return [item async for ready in engines.generate(PROMPTS, Sampling(4), *samples) for item in ready]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        ((), [(number, sample) for number in range(3) for sample in range(4)]),
        (([[1], [], [0, 3]],), [(0, 1), (2, 0), (2, 3)]),
    ],
)
@pytest.mark.parametrize("failing", [0.0, 1.0])
def test_every_sample_that_is_asked_for_comes_once(
    samples: Any, wanted: list[tuple[int, int]], failing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "FAILING", failing)
    found = answers(*samples)
    assert [(item.prompt_uid, item.sample) for item in found] == [(f"{n}/chosen_first", sample) for n, sample in wanted]
    assert [isinstance(item, GenerationFailure) for item in found] == [failing == 1.0] * len(wanted)
