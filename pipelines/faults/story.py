"""What became of each fault: when the run noticed it, when all was at work again, and what had to be made again.

Told from what the run itself says, its log and the count of its steps, with the moments at which that was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipelines.faults.draws import DrawnFault

_SAID = re.compile(
    r"WARNING pipelines\.job\.watch: (?P<who>rollout worker \d+|learner rank \d+|the reward verifier) (?P<what>.*)"
)
_BACK = re.compile(r"is back after [\d.]+ s")


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the run's log about one of its parts."""

    kind: Literal["noticed", "back"]
    who: str


def said_in(line: str) -> Said | None:
    """What a line of ``logs/driver.log`` says of a part that died or came back; None: it is about something else."""
    match = _SAID.search(line)
    return match and Said("back" if _BACK.match(match["what"]) else "noticed", match["who"])


@dataclass(slots=True)
class StruckFault:
    """A fault that was applied. Moments are seconds of one clock."""

    drawn: DrawnFault
    struck: float
    step: int
    """Steps that were logged before."""
    noticed: float | None = None
    back: float | None = None
    lost_steps: int = 0
    """Steps that were made again."""
    remark: str = ""

    def concerns(self, who: str) -> bool:
        """Whether ``who``, as the run's log names it, is what this fault struck. Of learners any: one ends them all."""
        part, member = self.drawn.part, self.drawn.member
        if part in ("engine core", "rollout worker"):
            return who == f"rollout worker {member}"
        return who.startswith("learner rank") if part == "learner rank" else part == "verifier" and "verifier" in who


@dataclass(slots=True)
class Story:
    """The faults of one run, as far as it has come. Every method is told what time it is."""

    faults: list[StruckFault] = field(default_factory=list)
    steps: int = 0
    """Steps that are logged now; fewer than before where a run goes back to a checkpoint."""
    besides: list[str] = field(default_factory=list)
    """Parts that were noticed as dead though nobody struck them."""

    def struck(self, drawn: DrawnFault, now: float) -> None:
        """A fault was applied; one that ends the driver ends the way back of all that were under way."""
        if drawn.ends_driver:
            for fault in self.open():
                fault.remark = "the driver was killed meanwhile"
        fault = StruckFault(drawn, now, self.steps)
        if (drawn.action, drawn.part) == ("kill", "driver"):
            # Whoever submitted the run is told by its end.
            fault.noticed = now
        self.faults.append(fault)

    def open(self) -> list[StruckFault]:
        """Faults whose part is not at work again."""
        return [fault for fault in self.faults if fault.back is None]

    def said(self, said: Said, now: float) -> None:
        """The run's log has a line about a part."""
        concerned = [fault for fault in self.open() if fault.concerns(said.who)]
        if not concerned and said.kind == "noticed":
            self.besides.append(said.who)
        for fault in concerned:
            # A part that is struck again while it comes back may not be told of twice.
            fault.noticed = now if fault.noticed is None else fault.noticed
            if said.kind == "back":
                fault.back = now

    def said_by_its_end(self, now: float) -> None:
        """The run has ended of what it met: it refused what was damaged, or has no Ray, or could not write."""
        for fault in self.open():
            fault.noticed = now if fault.noticed is None else fault.noticed

    def logged(self, steps: int, now: float) -> None:
        """So many steps are logged."""
        if steps < self.steps:
            going_back = [
                fault for fault in self.faults if fault.drawn.ends_driver or fault.drawn.part == "learner rank"
            ]
            if going_back:
                going_back[-1].lost_steps += self.steps - steps
        elif steps > self.steps and any(fault.drawn.ends_driver for fault in self.open()) and not self._is_ending():
            # A driver that takes a step has all its parts.
            for fault in self.open():
                fault.noticed = now if fault.noticed is None else fault.noticed
                fault.back = now
        self.steps = steps

    def _is_ending(self) -> bool:
        """Whether the driver has lost its Ray, or its disk, and has not ended yet: it may still end a step."""
        return any(fault.drawn.ends_by_itself and fault.noticed is None for fault in self.open())

    @property
    def waits_for_driver(self) -> bool:
        """Whether the run was started again and has not taken a step yet."""
        return any(fault.drawn.ends_driver for fault in self.open())


HEADINGS = ("run", "fault", "victim", "at step", "noticed after", "back after", "lost work")


def row_of(run: str, fault: StruckFault) -> tuple[str, ...]:
    """A fault as a row of the table."""
    drawn = fault.drawn
    action = {"kill": "kill -9", "stop": "SIGSTOP", "damage": "damaged"}.get(drawn.action, drawn.action)
    when = f"{fault.step}" + (f", {drawn.shortly:.1f} s later" if drawn.shortly is not None else "")
    lost = f"{fault.lost_steps} steps" if fault.lost_steps != 1 else "1 step"
    after = ["-" if moment is None else f"{moment - fault.struck:.1f} s" for moment in (fault.noticed, fault.back)]
    remark = fault.remark or ("" if fault.back is not None else "the run was over first")
    return (run, action, drawn.victim, when, *after, f"{lost}; {remark}" if remark else lost)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with :data:`HEADINGS`, columns as wide as their widest cell."""
    every = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]


def as_json(faults: Iterable[StruckFault]) -> list[dict[str, object]]:
    """Faults as records; durations in seconds, None where it did not come to that."""
    return [
        {
            "action": fault.drawn.action,
            "victim": fault.drawn.victim,
            "at": round(fault.drawn.at, 3),
            "shortly": fault.drawn.shortly,
            "step": fault.step,
            "noticed_after": None if fault.noticed is None else round(fault.noticed - fault.struck, 2),
            "back_after": None if fault.back is None else round(fault.back - fault.struck, 2),
            "lost_steps": fault.lost_steps,
            "remark": fault.remark,
        }
        for fault in faults
    ]
