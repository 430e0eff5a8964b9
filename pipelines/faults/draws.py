"""Faults drawn by a seed: what is done to which part of a run, and when. The same arguments draw the same faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Action = Literal["kill", "stop", "damage", "no memory", "no disk"]
"""``kill``: SIGKILL; ``stop``: SIGSTOP; ``damage``: bytes of the newest checkpoint are changed, and the driver is
killed, so that the checkpoint is needed. ``no memory``: a process gets no more than it has (RLIMIT_AS); ``no disk``:
what it writes is refused (RLIMIT_FSIZE), as a full disk or a quota refuses it."""
Part = Literal[
    "engine core", "rollout worker", "verifier", "learner rank", "driver", "newest checkpoint", "raylet", "GCS"
]
"""``raylet`` and ``GCS`` are Ray's own: the process that runs a node, and the one that knows the cluster."""

KINDS: tuple[tuple[Action, Part], ...] = (
    ("kill", "engine core"),
    ("stop", "engine core"),
    ("kill", "rollout worker"),
    ("stop", "rollout worker"),
    ("kill", "verifier"),
    ("stop", "verifier"),
    ("kill", "learner rank"),
    ("stop", "learner rank"),
    ("kill", "driver"),
    ("damage", "newest checkpoint"),
    ("kill", "raylet"),
    ("kill", "GCS"),
    ("no memory", "engine core"),
    ("no memory", "learner rank"),
    ("no disk", "driver"),
)
"""Nobody watches the driver, so a stopped one is not among them."""

_ENDS_DRIVER = ("driver", "newest checkpoint", "raylet", "GCS")
_LAST_SHARE = 0.9
"""Of the steps: a fault after them might come when all is over."""
_TOGETHER = 0.25
"""How often a fault comes shortly after the one before, while that one is still being dealt with."""
_SHORTLY = 10.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class DrawnFault:
    """A fault, and its moment."""

    action: Action
    part: Part
    member: int
    """Which of the parts of this kind; 0 where there is one."""
    at: float
    """Steps of RL: 3.4 is four tenths of a step's time after the third step was logged."""
    shortly: float | None = None
    """Seconds after the fault before it, in the place of ``at``; None: at ``at``."""

    @property
    def victim(self) -> str:
        """What it strikes, as ``learner rank 1``."""
        return (
            f"{self.part} {self.member}"
            if self.part in ("engine core", "rollout worker", "learner rank")
            else self.part
        )

    @property
    def ends_driver(self) -> bool:
        """Whether the run has to be started again by whoever submitted it."""
        return self.part in _ENDS_DRIVER

    @property
    def ends_by_itself(self) -> bool:
        """Whether the driver meets it, and ends of it with a message."""
        return self.part in ("raylet", "GCS") or self.action == "no disk"


def draw(
    seed: int, count: int, steps: int, workers: int, ranks: int, kinds: Sequence[tuple[Action, Part]] = KINDS
) -> list[DrawnFault]:
    """``count`` faults in the order of their moments, for a run of ``steps`` RL steps.

    Kinds are dealt like cards, so that none comes twice before each of them came. Moments are uniform between the end
    of the first step and nine tenths of all. Every fourth fault or so comes within seconds of the one before it
    instead, unless that one ended the driver, which must first be there again.
    """
    random_ = random.Random(f"faults/{seed}")
    dealt: list[tuple[Action, Part]] = []
    while len(dealt) < count:
        deck = list(kinds)
        random_.shuffle(deck)
        dealt += deck
    moments = sorted(random_.uniform(1.0, max(1.0, _LAST_SHARE * steps)) for _ in range(count))
    drawn: list[DrawnFault] = []
    members = {"engine core": workers, "rollout worker": workers, "learner rank": ranks}
    for (action, part), at in zip(dealt, moments, strict=False):
        member = random_.randrange(members.get(part, 1))
        is_together, seconds = random_.random() < _TOGETHER, random_.uniform(0.0, _SHORTLY)
        before = drawn[-1] if drawn else None
        may_be = before is not None and before.shortly is None and not before.ends_driver
        drawn.append(DrawnFault(action, part, member, at, seconds if is_together and may_be else None))
    return drawn
