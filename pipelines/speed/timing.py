"""How long something takes, as medians that one slow round cannot move."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 7


def median_seconds(action: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median wall-clock seconds of ``rounds`` calls, after one that is not counted."""
    action()
    return statistics.median(seconds(action) for _ in range(rounds))


def seconds(action: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def medians_in_turn(*actions: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, ...]:
    """Median seconds of each of several actions taken in turn, so that a machine that slows down slows all of them;
    one uncounted call of each goes first.
    """
    for action in actions:
        action()
    times = [[seconds(action) for action in actions] for _ in range(rounds)]
    return tuple(statistics.median(column) for column in zip(*times, strict=True))


def last_json(output: str) -> dict[str, Any]:
    """The last line of a process's output that is a JSON object: libraries print around it."""
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])
