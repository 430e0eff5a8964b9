"""Where the time of a training loop goes: a clock for the parts of a step, and their shares of a whole stage."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipelines.loop.rollouts import RolloutBatch

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one step."""

    step: float
    """From its beginning to the end of its last part."""
    parts: Mapping[str, float]


class StepClock:
    """Measures the parts of a step. The next step begins when the last part of this one ends."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.start()

    def start(self) -> None:
        """Begin a step now."""
        self._began = self._ended = self._now()
        self._parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time spent inside as this part of the step; a part may come several times."""
        began = self._now()
        yield
        self._ended = self._now()
        self._parts[name] = self._parts.get(name, 0.0) + self._ended - began

    async def thread(self, part: str, work: Callable[..., Result], *arguments: object) -> Result:
        """Run ``work`` in a thread, count its time as this part of the step, and return its result."""
        with self.part(part):
            return await asyncio.to_thread(work, *arguments)

    def end_step(self) -> StepTimes:
        """The times of the step that ended with the last part; the next step begins there."""
        times = StepTimes(self._ended - self._began, self._parts)
        self._began, self._parts = self._ended, {}
        return times


def step_metrics(times: StepTimes, tokens: float) -> dict[str, float]:
    """A step's length in seconds, and its speed in tokens per second."""
    return {"time/step": times.step, "tokens_per_second": tokens / times.step}


def loop_metrics(times: StepTimes, rollout: RolloutBatch) -> dict[str, float]:
    """Where the time of an RL step went, in seconds: generate, verify, wait, learn and publish add up to the step.

    ``times`` has the parts ``learn``, ``publish`` and, where there was any, ``learn_early``. For the rest of the step
    the loop was blocked: by generation, by verification, else by what no part accounts for (``wait``).
    """
    early, learn, publish = times.parts.get("learn_early", 0.0), times.parts["learn"], times.parts["publish"]
    blocked = times.step - early - learn - publish
    generate = min(rollout.generate_seconds, blocked)
    verify = min(rollout.verify_seconds, blocked - generate)
    return {
        "time/generate": generate,
        "time/verify": verify,
        "time/wait": blocked - generate - verify,
        "time/learn": early + learn,
        "time/learn_early": early,
        "time/publish": publish,
        "time/engine_busy": rollout.generate_seconds,
        "refill_rounds": float(rollout.refills),
    }


def time_shares(metrics_file: Path) -> dict[str, float]:
    """Share of the RL loop's time in each of its parts over the whole stage, earlier interrupted runs included."""
    parts = ("generate", "verify", "learn", "publish", "wait")
    lines = [json.loads(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    totals = {part: sum(line["metrics"][f"time/{part}"] for line in lines if line["stage"] == "rl") for part in parts}
    return {part: seconds / sum(totals.values()) for part, seconds in totals.items()}
