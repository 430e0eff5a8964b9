"""Whether something that works still does: a state machine without clock, threads or Ray.

What works says how far it is (a counter that only grows) and what it is at. It is alive as long as the counter moves,
or as long as it has nothing to do. How long it may stand still follows from how long it stood still before while all
was well, so that a slow machine has long deadlines and a fast one short ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["healthy", "suspect", "dead", "restarting"]

_SUSPECT_SHARE = 0.5
"""Of its deadline that something may stand still before it is suspect."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What something that works says of itself."""

    progress: int
    """Grows with everything that is done: steps of an engine, micro-batches of a learner, scored traces."""
    at: str
    """What it is doing, as ``generate``; empty: nothing, waiting for work."""
    longest: float | None = None
    """Seconds that it has ever stood still at this before it moved; None: it does not know."""
    is_measured: bool = True
    """Whether standstills at this are alike, so that those before say how long the next may be."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long something may stand still."""

    floor: float
    """Seconds that are always allowed."""
    factor: float
    """Times the longest standstill that was followed by progress."""
    unmeasured: float
    """Seconds for work of which none has been measured: the first of its kind may load or compile."""
    is_up: bool = False
    """Whether it was up when it began to be listened to, so that it has to say its first word within ``floor``."""

    def deadline(self, longest: float | None) -> float:
        """Seconds without progress after which something is dead; ``longest`` standstill before, None: unmeasured."""
        return max(self.floor, self.unmeasured if longest is None else self.factor * longest)


@dataclass(slots=True)
class Liveness:
    """One thing's state. Every method is told what time it is, in seconds of any steady clock."""

    patience: Patience
    since: float
    """When it last moved, had nothing to do, or came back."""
    heard: float = 0.0
    """When it last said something."""
    _beat: Beat | None = None
    _longest: dict[str, float] = field(default_factory=dict)
    """By kind of work, the longest standstill that was followed by progress."""
    _gone: Literal["", "dead", "restarting"] = ""

    def beat(self, beat: Beat, now: float) -> None:
        """It said how far it is."""
        if self._gone:
            return
        before, self._beat, self.heard = self._beat, beat, now
        if beat.longest is not None and beat.at:
            self._longest[beat.at] = max(self._longest.get(beat.at, 0.0), beat.longest)
        if before is not None and (before.progress, before.at) == (beat.progress, beat.at) and beat.at:
            return
        if before is not None and before.at and before.is_measured:
            self._longest[before.at] = max(self._longest.get(before.at, 0.0), now - self.since)
        self.since = now

    def excuse(self, seconds: float) -> None:
        """Nobody listened for so long: its silence then says nothing."""
        self.since += seconds

    def deadline(self) -> float:
        """Seconds that it may stand still at what it is doing now."""
        if self._beat is None:
            return self.patience.deadline(0.0 if self.patience.is_up else None)
        if self._beat.at:
            return self.patience.deadline(self._longest.get(self._beat.at) if self._beat.is_measured else None)
        # With nothing to do it only has to answer, which needs no measurement.
        return self.patience.deadline(0.0)

    def state(self, now: float) -> State:
        """What it is taken for; dead and restarting are left only by :meth:`restarting` and :meth:`back`."""
        if self._gone:
            return self._gone
        still = now - self.since
        if still >= self.deadline():
            return "dead"
        return "suspect" if still >= _SUSPECT_SHARE * self.deadline() else "healthy"

    def died(self) -> None:
        """It is known to be dead, before any deadline."""
        self._gone = "dead"

    def restarting(self) -> None:
        """Another is being started in its place."""
        self._gone = "restarting"

    def back(self, now: float) -> None:
        """The other is at work. What was measured still holds."""
        self._gone, self._beat, self.since = "", None, now
