"""Times of a step's parts, taken from a clock that is passed in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pipelines.loop.clock import StepClock, StepTimes, loop_metrics, step_metrics, time_shares
from pipelines.loop.rollouts import RolloutBatch


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> float:
        """Let time pass; returns how much."""
        self.seconds += seconds
        return seconds


def test_parts_add_up_and_the_next_step_begins_where_the_last_part_ended() -> None:
    hand = Hand()
    clock = StepClock(hand)
    hand.passes(3)
    with clock.part("early"):
        hand.passes(1)
    hand.passes(2)
    with clock.part("early"):
        hand.passes(0.5)
    with clock.part("publish"):
        hand.passes(0.25)
    hand.passes(10)  # Logging: of the next step.
    assert clock.end_step() == StepTimes(6.75, {"early": 1.5, "publish": 0.25})
    with clock.part("publish"):
        hand.passes(1)
    assert clock.end_step() == StepTimes(11.0, {"publish": 1.0})


def test_a_step_that_is_started_does_not_count_what_was_before() -> None:
    hand = Hand()
    clock = StepClock(hand)
    with clock.part("learn"):
        hand.passes(1)
    clock.end_step()
    hand.passes(60)
    clock.start()
    with clock.part("learn"):
        hand.passes(2)
    assert clock.end_step() == StepTimes(2.0, {"learn": 2.0})


def test_work_in_a_thread_is_counted_and_gives_its_result() -> None:
    hand = Hand()
    clock = StepClock(hand)
    assert asyncio.run(clock.thread("learn", hand.passes, 1.5)) == 1.5
    assert clock.end_step() == StepTimes(1.5, {"learn": 1.5})


@pytest.mark.parametrize(
    ("generated", "verified", "expected"),
    [
        # Blocked for 10 - 1 - 2 - 1 = 6 seconds.
        (4.0, 0.5, (4.0, 0.5, 1.5)),
        (5.75, 0.5, (5.75, 0.25, 0.0)),
        # A batch that began in an earlier step: the loop did not wait for all of it.
        (60.0, 0.5, (6.0, 0.0, 0.0)),
    ],
)
def test_what_blocked_the_loop_is_generation_then_verification_then_waiting(
    generated: float, verified: float, expected: tuple[float, float, float]
) -> None:
    times = StepTimes(10.0, {"learn_early": 1.0, "learn": 2.0, "publish": 1.0})
    metrics = loop_metrics(times, RolloutBatch((), generated, verified, refills=3))
    assert (metrics["time/generate"], metrics["time/verify"], metrics["time/wait"]) == expected
    assert (metrics["time/learn"], metrics["time/learn_early"], metrics["time/engine_busy"]) == (3.0, 1.0, generated)
    assert metrics["refill_rounds"] == 3
    assert sum(metrics[f"time/{part}"] for part in ("generate", "verify", "wait", "learn", "publish")) == 10.0
    assert step_metrics(times, 500) == {"time/step": 10.0, "tokens_per_second": 50.0}


def test_nothing_learnt_early_is_no_part() -> None:
    metrics = loop_metrics(StepTimes(4.0, {"learn": 2.0, "publish": 1.0}), RolloutBatch((), 0.5, 0.0))
    assert (metrics["time/learn_early"], metrics["time/wait"]) == (0.0, 0.5)


def test_shares_are_of_the_rl_steps_of_all_runs(tmp_path: Path) -> None:
    parts = {"generate": 3.0, "verify": 0.0, "learn": 1.0, "publish": 0.5, "wait": 0.5}
    lines = [{"stage": stage, "metrics": {f"time/{name}": value for name, value in parts.items()}} for stage in ("rl",)]
    lines = [{"stage": "distill", "metrics": {"loss": 1.0}}, *lines, *lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shares = time_shares(tmp_path / "metrics.jsonl")
    assert shares == {"generate": 0.6, "verify": 0.0, "learn": 0.2, "publish": 0.1, "wait": 0.1}
