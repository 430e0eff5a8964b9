"""What died and came back: how often it may, what was lost by it, and who is told."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.deadlines import ActorFailed, DeadlineExceeded, NamedActor, get
from actors.errors import UserError
from actors.failures import Kind, RestartBudget, answer_to

log = logging.getLogger(__name__)


class RestartsExhausted(UserError, RuntimeError):
    """Things died more often than ``cluster.max_restarts`` within ``cluster.restart_window`` allow, or again and again
    at the same place; names the last, and the place."""


# By how much a start may take longer than the first did: others work beside it, and may start as well.
_LONGER = 2.0


@dataclass(slots=True)
class StartTime:
    """How long parts of a kind may take to start again, by how long the first took: one that is stopped, or waits for
    ever, is found long before the time is over that any start may take."""

    most: float
    """Seconds that any start may take."""
    floor: float
    """Seconds that are added to a multiple of the first start's."""
    first: float | None = None
    """What the first took, in seconds; None: not known yet."""
    late: int = 0
    """Starts in a row that took too long; the next may take twice as long."""

    def seconds(self) -> float:
        """What the next start may take."""
        return self.most if self.first is None else min(self.most, (self.floor + _LONGER * self.first) * 2**self.late)

    def took(self, seconds: float) -> None:
        """Something has started."""
        self.first = seconds if self.first is None else self.first
        self.late = 0

    def wait(self, answers: Sequence[Any], what: str, actors: Sequence[NamedActor]) -> list[Any]:
        """What actors answer when they have started, which each does in the same place.

        Raises:
            ActorFailed: one died, or took too long; another start may go better.
            DeadlineExceeded: it took ``most``, and no longer time would help.

        """
        seconds, began = self.seconds(), time.monotonic()
        try:
            answered = get(answers, seconds, what, actors)
        except DeadlineExceeded as error:
            if seconds >= self.most:
                raise
            self.late += 1
            late = error.late[0]
            failed = ActorFailed(f"{what}: {late} did not start within {seconds:.0f} s")
            failed.kind, failed.actor = late.kind, late
            raise failed from error
        self.took(time.monotonic() - began)
        return answered


@dataclass(slots=True)
class Fault:
    """Something that died."""

    kind: Kind
    who: str
    why: str
    noticed: float
    """By ``time.monotonic``."""
    back: float | None = None
    """When another was at work in its place; None: not yet, or never."""


class Faults:
    """The faults of a job. Methods may be called from any thread."""

    def __init__(self, most: int, window: float, tell: Callable[[str], None] = log.warning) -> None:
        """``tell`` gets a line for each fault, and for each thing that is back."""
        self.seen: list[Fault] = []
        self._budget = RestartBudget(most, window)
        self._most, self._window = most, window
        self._tell = tell
        self._lost_nodes: set[str] = set()
        self._lock = threading.Lock()

    def noticed(
        self, kind: Kind, who: str, why: str, then: str, times: int = 1, where: str = "", node: str | None = None
    ) -> Fault:
        """Something died, for the ``times``-th time at the same place, which is ``where``; ``then`` is what follows.

        Everything that dies with one ``node``, of which this is Ray's id, is one restart; None: its node lives.

        Raises:
            RestartsExhausted: it may not be restarted.

        """
        with self._lock:
            now = time.monotonic()
            left = (bool(node) and node in self._lost_nodes) or self._budget.take(now)
            if node:
                self._lost_nodes.add(node)
            answer = answer_to(kind if node is None else "node", times, left)
            fault = Fault(kind, who, why, now)
            self.seen.append(fault)
        if answer == "stop" and left:
            raise RestartsExhausted(
                f"{who} {why}. That was fault {times} in {where}, so it is no chance: look at its log, and at the "
                "traces of that step. When the cause is mended, run the same command again to continue from the last "
                "checkpoint"
            )
        if answer == "stop":
            raise RestartsExhausted(
                f"{who} {why}. That was one fault too many: {self._most} restarts within {self._window:g} s are "
                "allowed (cluster.max_restarts, cluster.restart_window). When its cause is mended, run the same "
                "command again to continue from the last checkpoint"
            )
        self._tell(f"{who} {why}; {then}")
        return fault

    def back(self, fault: Fault, with_what: str = "") -> None:
        """Another is at work in the place of what died."""
        fault.back = time.monotonic()
        self._tell(f"{fault.who} is back after {fault.back - fault.noticed:.1f} s{with_what}")

    def is_under_way(self, kind: Kind | None) -> bool:
        """Whether what died last of a kind is not back yet."""
        with self._lock:
            last = next((fault for fault in reversed(self.seen) if fault.kind == kind), None)
        return last is not None and last.back is None

    def metrics(self) -> dict[str, float]:
        """Restarts so far by kind, only of kinds that had some."""
        with self._lock:
            counts = Counter(fault.kind for fault in self.seen)
        return {f"restarts/{kind}": float(count) for kind, count in sorted(counts.items())}
