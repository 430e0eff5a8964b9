"""Kinds of failures, and what is done about each: a small taxonomy, and one pure function from a failure to its answer.

An exception says its kind by an attribute ``kind`` of its class, set where it happens, because a remote call leaves of
an exception little more than its class. What has no kind is a defect of ours or a user's mistake: it ends the run.
docs/faults.md has the same table for readers; a test holds both together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["data", "request", "engine", "verifier", "learner", "driver", "node"]
Answer = Literal["count it", "ask again", "restart it", "set its prompt aside", "wait for another", "stop"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# How often the same thing may fail before it is the thing, and not chance.
REQUEST_TRIES = 2
"""A trace that fails this often is a failure that is counted."""
SUSPECT_DEATHS = 2
"""A prompt that was being answered this many times when an engine died is answered alone from then on."""
PROMPT_DEATHS = 4
"""One that was, this many times, is set aside: the last times it was alone, so chance would have to strike it again."""
STEP_DEATHS = 3
"""A step in which learners died this often ends the run."""


def answer_to(kind: Kind, times: int, restarts_left: bool = True) -> Answer:
    """What is done about a failure.

    Args:
        kind: what failed.
        times: how often the same has failed now, this time included: the same trace (request), the same prompt while
            an engine died (engine), the same step (learner).
        restarts_left: whether ``cluster.max_restarts`` within ``cluster.restart_window`` allow another.

    """
    if kind == "data":
        # The same text would fail again.
        return "count it"
    if kind == "request":
        return "ask again" if times < REQUEST_TRIES else "count it"
    if not restarts_left or kind == "driver":
        # Whoever submitted the run starts it again, or a person by the same command: it continues from its checkpoint.
        return "stop"
    if kind == "engine" and times >= PROMPT_DEATHS:
        return "set its prompt aside"
    if kind == "learner" and times >= STEP_DEATHS:
        return "stop"
    return "wait for another" if kind == "node" else "restart it"


def kind_of(error: BaseException) -> Kind | None:
    """The kind that an exception states; None where it states none."""
    kind = getattr(error, "kind", None)
    return kind if kind in KINDS else None


@dataclass(slots=True)
class RestartBudget:
    """How many restarts there may be within a window of time. The clock is the caller's."""

    most: int
    """Restarts within the window; 0: none."""
    window: float
    """Seconds."""
    _taken: deque[float] = field(default_factory=deque)

    def take(self, now: float) -> bool:
        """Whether there may be another restart now; if so it is counted."""
        while self._taken and self._taken[0] <= now - self.window:
            self._taken.popleft()
        if len(self._taken) >= self.most:
            return False
        self._taken.append(now)
        return True
