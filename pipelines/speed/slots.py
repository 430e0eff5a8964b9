"""How full 256 engines are kept by the buffer of groups: the buffer itself, engines and learners as events on a clock.

1,024 prompts per step as in the paper, groups of 8, 8 slots per engine. A trace's length is log-normal (median 1,200
tokens, at most 8,192), and an engine writes a token of each of its traces in a unit of time. One trace in a hundred
fails. Every fiftieth step an engine dies: its traces begin again on others, and it is back after a step's time.
Learning takes 0.7 of the time that the traces of a step take on full engines.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipelines.loop.buffer import BufferSizes, GroupBuffer

ENGINES, SLOTS, PROMPTS, SAMPLES = 256, 8, 1024, 8
MEDIAN, SIGMA, LONGEST = 1200.0, 0.7, 8192.0
FAILING, DYING_EVERY, LEARNING = 0.01, 50, 0.7
STEPS = 500


def slots() -> dict[str, Any]:
    """Share of slots in which a trace is written, in the middle of 500 steps at staleness 2; fewer steps with less."""
    results: dict[str, Any] = {}
    for staleness, steps in ((2, STEPS), (1, 30), (0, 20)):
        started = time.process_time()
        run = Simulation(staleness, steps)
        name = "slots_in_use_256" if staleness == 2 else f"slots_in_use_256_staleness_{staleness}"
        results[name] = run.share_in_use()
        if staleness == 2:
            results["slots_buffer_ms_per_step"] = 1000 * (time.process_time() - started) / steps
    return results


@dataclass
class _Engine:
    writing: set[int] = field(default_factory=set)
    """Numbers of traces."""
    waiting: deque[int] = field(default_factory=deque)
    """Positions of items, once per trace."""
    dead: bool = False

    @property
    def owed(self) -> int:
        return len(self.writing) + len(self.waiting)


class Simulation:
    """One run. Events are (time, number, what, of whom)."""

    def __init__(self, staleness: int, steps: int, engines: int = ENGINES, prompts: int = PROMPTS) -> None:
        self._steps = steps
        self._behind = staleness
        self._slots = engines * SLOTS
        self._random = random.Random(0)
        self._sizes = BufferSizes(prompts, prompts * steps, SAMPLES, staleness, engines * (SLOTS + SAMPLES))
        self._buffer: GroupBuffer[bool] = GroupBuffer(self._sizes)
        self._engines = [_Engine() for _ in range(engines)]
        self._events: list[tuple[float, int, str, int]] = []
        self._traces: dict[int, tuple[int, int]] = {}
        """Engine and position of each trace that is written."""
        self._left: dict[int, int] = {}
        self._number = 0
        self._now = self._busy = 0.0
        self._marks: list[tuple[float, float]] = []
        """When each step was published, and how long slots were in use until then, all together."""
        self.step_seconds = prompts * SAMPLES / self._slots * MEDIAN * math.exp(SIGMA**2 / 2)
        """That the traces of a step take on full engines."""
        self.trained: list[int] = []
        self._run()

    def share_in_use(self) -> float:
        """Between the first steps, in which all begin at once, and the last, after which no further item begins."""
        first, last = 2 + 2 * self._behind, len(self._marks) - 2 - self._behind
        (began, before), (ended, after) = self._marks[first], self._marks[last]
        return (after - before) / ((ended - began) * self._slots)

    def _at(self, seconds: float, what: str, whom: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (self._now + seconds, self._number, what, whom))

    def _run(self) -> None:
        taken = 0
        learning = False
        self._publish(0)
        while len(self._marks) < self._steps:
            moment, number, what, whom = heapq.heappop(self._events)
            self._busy += len(self._traces) * (moment - self._now)
            self._now = moment
            if what == "trace":
                self._trace_ended(number)
            elif what == "returns":
                self._engines[whom].dead = False
            else:
                learning = False
                self._marks.append((self._now, self._busy))
                self._publish(len(self._marks))
            self._begin()
            while not learning:
                if taken < self._sizes.of_step(0) and (found := self._buffer.take()) is not None:
                    self.trained.append(found[0])
                    taken += 1
                    continue
                if taken < self._sizes.of_step(0):
                    break
                learning, taken = True, 0
                self._at(LEARNING * self.step_seconds, "learned", 0)

    def _publish(self, version: int) -> None:
        self._buffer.published(version)
        self._begin()
        if version and version % DYING_EVERY == 0:
            self._kill(self._random.randrange(len(self._engines)))

    def _kill(self, dying: int) -> None:
        engine = self._engines[dying]
        engine.dead = True
        self._at(self.step_seconds, "returns", dying)
        again = [*(self._traces.pop(number)[1] for number in sorted(engine.writing)), *engine.waiting]
        engine.writing.clear()
        engine.waiting.clear()
        for position in again:
            self._give([position])

    def _begin(self) -> None:
        for position in self._buffer.begin():
            self._left[position] = SAMPLES
            self._give([position] * SAMPLES)

    def _give(self, traces: list[int]) -> None:
        """To the engine that owes fewest, as the fleet does it."""
        chosen = min((engine.dead, engine.owed, index) for index, engine in enumerate(self._engines))[-1]
        self._engines[chosen].waiting.extend(traces)
        self._fill(chosen)

    def _fill(self, index: int) -> None:
        engine = self._engines[index]
        while engine.waiting and len(engine.writing) < SLOTS:
            length = min(LONGEST, MEDIAN * math.exp(SIGMA * self._random.gauss(0, 1)))
            if self._random.random() < FAILING:
                length *= self._random.random()
            self._at(length, "trace", index)
            engine.writing.add(self._number)
            self._traces[self._number] = (index, engine.waiting.popleft())

    def _trace_ended(self, number: int) -> None:
        if number not in self._traces:
            return  # Its engine died before.
        index, position = self._traces.pop(number)
        self._engines[index].writing.discard(number)
        self._fill(index)
        self._buffer.ended(1)
        self._left[position] -= 1
        if not self._left[position]:
            del self._left[position]
            self._buffer.complete(position, True)
