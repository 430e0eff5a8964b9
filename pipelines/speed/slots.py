"""How full 256 engines are kept by the buffer of groups: the buffer itself, engines and learners as events on a clock.

1,024 prompts per step as in the paper, groups of 8, 8 slots per engine. A trace's length is log-normal (median 1,200
tokens, at most 8,192), and an engine writes a token of each of its traces in a unit of time. One trace in a hundred
fails. Every fiftieth step an engine dies: its traces begin again on others, and it is back after a step's time.
Learning takes 0.7 of the time that the traces of a step take on full engines.

``slots_bimodal_*``: a quarter of that, with one trace in ten of 6,000 to 8,192 tokens and the others of 200 to 1,200,
and ``rollout.budget_tokens``: after so many tokens a trace leaves its engine and goes on as
:class:`pipelines.loop.portions.PortionedFleet` has it, for a fiftieth of what it has so far to be computed anew.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipelines.loop.buffer import BufferSizes, GroupBuffer

ENGINES, SLOTS, PROMPTS, SAMPLES = 256, 8, 1024, 8
MEDIAN, SIGMA, LONGEST = 1200.0, 0.7, 8192.0
FAILING, DYING_EVERY, LEARNING = 0.01, 50, 0.7
STEPS = 500
BUDGETS, AGAIN = (0, 1024, 2048, 4096), 0.02


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of traces."""

    draw: Callable[[random.Random], float]
    mean: float


LOG_NORMAL = Lengths(
    lambda rng: min(LONGEST, MEDIAN * math.exp(SIGMA * rng.gauss(0, 1))), MEDIAN * math.exp(SIGMA**2 / 2)
)
"""As reasoning has it; the mean is without the bound."""
BIMODAL = Lengths(
    lambda rng: rng.uniform(6000, LONGEST) if rng.random() < 0.1 else rng.uniform(200, 1200),
    0.1 * (6000 + LONGEST) / 2 + 0.9 * 700,
)


def slots() -> dict[str, Any]:
    """Share of slots in which a trace is written, in the middle of 500 steps at staleness 2; fewer steps with less.

    And the length of a step with the bimodal mix over that of full engines, at staleness 2, by budget.
    """
    results: dict[str, Any] = {}
    for staleness, steps in ((2, STEPS), (1, 30), (0, 20)):
        started = time.process_time()
        run = Simulation(staleness, steps)
        name = "slots_in_use_256" if staleness == 2 else f"slots_in_use_256_staleness_{staleness}"
        results[name] = run.share_in_use()
        if staleness == 2:
            results["slots_buffer_ms_per_step"] = 1000 * (time.process_time() - started) / steps
    for budget in BUDGETS:
        mixed = Simulation(2, 30, ENGINES // 4, PROMPTS // 4, BIMODAL, budget)
        name = f"slots_bimodal_step_budget_{budget}" if budget else "slots_bimodal_step"
        results[name] = mixed.seconds_per_step() / mixed.step_seconds
    return results


@dataclass(slots=True)
class _Trace:
    position: int
    """Of its item."""
    left: float
    """Tokens that are still to be written; 0 where it has not begun."""
    written: float = 0.0


@dataclass
class _Engine:
    writing: set[int] = field(default_factory=set)
    """Numbers of traces."""
    waiting: deque[_Trace] = field(default_factory=deque)
    dead: bool = False

    @property
    def owed(self) -> int:
        return len(self.writing) + len(self.waiting)


class Simulation:
    """One run. Events are (time, number, what, of whom)."""

    def __init__(
        self,
        staleness: int,
        steps: int,
        engines: int = ENGINES,
        prompts: int = PROMPTS,
        lengths: Lengths = LOG_NORMAL,
        budget: float = 0,
    ) -> None:
        self._steps = steps
        self._lengths = lengths
        self._budget = budget or math.inf
        self._behind = staleness
        self._slots = engines * SLOTS
        self._random = random.Random(0)
        self._sizes = BufferSizes(prompts, prompts * steps, SAMPLES, staleness, engines * (SLOTS + SAMPLES))
        self._buffer: GroupBuffer[bool] = GroupBuffer(self._sizes)
        self._engines = [_Engine() for _ in range(engines)]
        self._events: list[tuple[float, int, str, int]] = []
        self._traces: dict[int, tuple[int, _Trace]] = {}
        """Each trace that is written, with its engine."""
        self._paused: deque[_Trace] = deque()
        self._left: dict[int, int] = {}
        self._number = 0
        self._now = self._busy = 0.0
        self._marks: list[tuple[float, float]] = []
        """When each step was published, and how long slots were in use until then, all together."""
        self.step_seconds = prompts * SAMPLES / self._slots * lengths.mean
        """That the traces of a step take on full engines."""
        self.trained: list[int] = []
        self._run()

    @property
    def _middle(self) -> tuple[int, int]:
        """Between the first steps, in which all begin at once, and the last, after which no further item begins."""
        return 2 + 2 * self._behind, len(self._marks) - 2 - self._behind

    def share_in_use(self) -> float:
        """Of the slots, in the middle of the run."""
        (began, before), (ended, after) = (self._marks[step] for step in self._middle)
        return (after - before) / ((ended - began) * self._slots)

    def seconds_per_step(self) -> float:
        """In the middle of the run."""
        first, last = self._middle
        return (self._marks[last][0] - self._marks[first][0]) / (last - first)

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
                self._left_engine(number)
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
        self._go_on(len(self._paused))
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
        for trace in again:
            self._give([trace])

    def _go_on(self, traces: int) -> None:
        """Of those that left their engines, so many, the first that left first."""
        for _ in range(min(traces, len(self._paused))):
            self._buffer.ended(-1)
            self._give([self._paused.popleft()])

    def _begin(self) -> None:
        for position in self._buffer.begin():
            self._left[position] = SAMPLES
            self._give([_Trace(position, 0.0) for _ in range(SAMPLES)])

    def _give(self, traces: list[_Trace]) -> None:
        """To the engine that owes fewest, as the fleet does it."""
        chosen = min((engine.dead, engine.owed, index) for index, engine in enumerate(self._engines))[-1]
        self._engines[chosen].waiting.extend(traces)
        self._fill(chosen)

    def _fill(self, index: int) -> None:
        engine = self._engines[index]
        while engine.waiting and len(engine.writing) < SLOTS:
            trace = engine.waiting.popleft()
            if not trace.left:
                trace.left = self._lengths.draw(self._random)
                if self._random.random() < FAILING:
                    trace.left *= self._random.random()
            self._at(min(trace.left, self._budget) + AGAIN * trace.written, "trace", index)
            engine.writing.add(self._number)
            self._traces[self._number] = (index, trace)

    def _left_engine(self, number: int) -> None:
        """A trace ended, or made room for others."""
        if number not in self._traces:
            return  # Its engine died before.
        index, trace = self._traces.pop(number)
        self._engines[index].writing.discard(number)
        self._fill(index)
        self._buffer.ended(1)
        portion = min(trace.left, self._budget)
        trace.left, trace.written = trace.left - portion, trace.written + portion
        if trace.left:
            self._paused.append(trace)
        else:
            self._left[trace.position] -= 1
            if not self._left[trace.position]:
                del self._left[trace.position]
                self._buffer.complete(trace.position, True)
        self._begin()
        self._go_on(self._buffer.free)
