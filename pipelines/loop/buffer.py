"""Between engines and learners: which items are under way, when the next may begin, and which a step learns from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class BufferSizes:
    """What a buffer is told of its run."""

    per_step: int
    """P: items of a step. An item is a prompt's group, or both groups of a pair."""
    items: int
    """Of the whole run. Only its last step may have fewer than P."""
    traces: int
    """Of one item."""
    max_staleness: int
    """k"""
    slots: int
    """Traces that may be under way before no further item begins."""

    def of_step(self, step: int) -> int:
        """Items of a step."""
        return max(0, min(self.per_step, self.items - step * self.per_step))


@dataclass(slots=True)
class _Held(Generic[Content]):
    position: int
    begun: int
    """Version of the weights that were published last when it began: none of its tokens is older."""
    places: int
    """It has to be among the first ``places`` items that are taken in the run, or it would be too old."""
    content: Content | None = None


class GroupBuffer(Generic[Content]):
    """Items of a stream of prompts, from their beginning until they are trained on. It knows no engines and no clock.

    An item goes through four states: it *begins* (:meth:`begin`: its prompts go to the engines), its traces end one by
    one (:meth:`ended`), it is *complete* (:meth:`complete`), it is *taken* (:meth:`take`: for the first step that still
    lacks an item). The items of step s are trained on by weights of version s, and then version s + 1 is published.

    One number decides everything. Let T be the items taken so far in the run and v the version published last. An item
    that begins now must be taken by step v + k, so as one of the first (v + k + 1) P: these are its *places*. Items are
    held in the order in which they began. Always:

    - **Feasible**: T + i < places of the i-th item held. Were they taken in order from now on, none would be too old.
      So an item begins only while T + held < (v + k + 1) P, whatever the others do later, and nothing is thrown away.
    - **First complete, first taken**: a complete item passes those before it as long as they stay feasible. One that
      is at its last place is waited for: no long trace is starved, nor older than k versions when it is trained on.
    - **In the order of the stream**: items begin in the order of their positions, those of a checkpoint first. Each is
      taken exactly once.
    - **Full**: an item begins whenever fewer than ``slots`` traces are under way, unless it might become too old.

    With k = 0 the items of step s are positions s P to (s + 1) P - 1, begun by the weights they are trained on:
    strictly on-policy, in whichever order they become complete.
    """

    def __init__(self, sizes: BufferSizes, step: int = 0, state: Mapping[str, Any] | None = None) -> None:
        """``step`` is the first one to be taken; ``state`` is what :meth:`state` gave before it, where there was one.

        Raises:
            ValueError: the state is not of a run that took so many steps.

        """
        self._sizes = sizes
        self._taken = min(step * sizes.per_step, sizes.items)
        state = state or {"begun": self._taken, "outstanding": []}
        self._again: deque[int] = deque(state["outstanding"])
        """Positions that began before the checkpoint and were not trained on: they begin again."""
        self._next: int = state["begun"]
        if self._next - len(self._again) != self._taken:
            raise ValueError(
                f"after {step} steps {self._taken} items are trained on, but {self._next} began and "
                f"{len(self._again)} of them are outstanding"
            )
        self._held: dict[int, _Held[Content]] = {}
        """By position, in the order in which they began."""
        self._awaiting: deque[_Held[Content]] = deque()
        """Taken for steps that are not trained on yet."""
        self._version: int | None = None
        self._under_way = 0

    def published(self, version: int) -> None:
        """The engines have the weights of ``version``: as many steps are trained on."""
        self._version = version
        trained = min(version * self._sizes.per_step, self._sizes.items)
        while len(self._awaiting) > self._taken - trained:
            self._awaiting.popleft()

    def begin(self) -> list[int]:
        """Positions of the items that begin now, which may be none."""
        positions: list[int] = []
        if self._version is None:
            return positions
        places = (self._version + self._sizes.max_staleness + 1) * self._sizes.per_step
        while (
            (self._again or self._next < self._sizes.items)
            and self._taken + len(self._held) < places
            and self._under_way < self._sizes.slots
        ):
            if self._again:
                position = self._again.popleft()
            else:
                position, self._next = self._next, self._next + 1
            self._held[position] = _Held(position, self._version, places)
            self._under_way += self._sizes.traces
            positions.append(position)
        return positions

    def ended(self, traces: int) -> None:
        """So many traces of items that began were written, or failed, and their slots are free; negative: so many go on
        that had left their slots.
        """
        self._under_way -= traces

    @property
    def free(self) -> int:
        """Slots in which no trace is."""
        return max(0, self._sizes.slots - self._under_way)

    def complete(self, position: int, content: Content) -> None:
        """All of an item is there.

        Raises:
            KeyError: no such item is under way.

        """
        held = self._held.get(position)
        if held is None or held.content is not None:
            raise KeyError(f"item {position} is not under way")
        held.content = content

    def take(self) -> tuple[int, Content] | None:
        """The first complete item that leaves those before it feasible, with its position; None if there is none."""
        for index, held in enumerate(self._held.values()):
            if held.content is not None:
                self._awaiting.append(self._held.pop(held.position))
                self._taken += 1
                return held.position, held.content
            if self._taken + index + 1 >= held.places:
                # Its last place is the one that those before it leave: nothing may be taken before it.
                return None
        return None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: how far the stream was read, and the positions of it that are not trained on."""
        outstanding = [held.position for held in (*self._awaiting, *self._held.values())]
        return {"begun": self._next, "outstanding": [*sorted(outstanding), *self._again]}

    def gauges(self, step: int) -> dict[str, float]:
        """What is held while ``step`` is taken or trained on.

        `slots`, `slots_in_use` (traces under way), `items_waiting` (complete, for later steps), and `oldest_item` (the
        age in versions of the oldest item that is not complete).
        """
        later = self._taken - min((step + 1) * self._sizes.per_step, self._sizes.items)
        writing = [held.begun for held in self._held.values() if held.content is None]
        return {
            "slots": float(self._sizes.slots),
            "slots_in_use": float(self._under_way),
            "items_waiting": float(max(0, later) + len(self._held) - len(writing)),
            "oldest_item": float((self._version or 0) - min(writing)) if writing else 0.0,
        }
