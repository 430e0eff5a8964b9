"""Calls of all learner ranks together, which outlive them: where one dies, all come back, and what was lost is redone.

The driver keeps every call that works for an optimiser step, with the very batch, until no rank can need it again: the
last step that is done and those that are not. Ranks come back from the newest copy of their state that is whole on all
of them (:mod:`actors.learner.copies`), which is that of the last step that is done or of the one before it; before
there are copies, from what the stage began with. What was asked for since then is asked for again, in its order.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.deadlines import ANSWER_SECONDS, ActorFailed, DeadlineExceeded, NamedActor, get, settled
from actors.learner.holders import Holders
from actors.restarts import Fault, Faults, StartTime

log = logging.getLogger(__name__)

# What ranks that start again may take besides a multiple of what the first took.
_LATER_SECONDS = 30.0


def rank_died(failed: ActorFailed) -> bool:
    """Whether an error is the death of a learner rank, or of its node."""
    return failed.actor is not None and failed.actor.kind == "learner" and failed.kind in ("learner", "node")


@dataclass(frozen=True, slots=True)
class Revival:
    """How ranks are brought back."""

    restart: Callable[[], list[NamedActor] | None]
    """Ends what is left of all ranks and starts others in their places, without waiting for them; None where ranks are
    being ended."""
    is_ending: Callable[[], bool]
    """Whether ranks are being ended: then they die of that."""
    holders: Holders
    """Who has the memory for their copies."""
    faults: Faults
    tell: Callable[[str], None]
    """Gets a line where no copies can be made."""


@dataclass(eq=False, slots=True)
class Call:
    """One method of all ranks."""

    method: str
    arguments: Sequence[tuple[Any, ...]]
    """By rank."""
    what: str
    seconds: float
    step: int | None = None
    """The optimiser step that it works for, from 0; None: it changes nothing that is trained."""
    ends_step: bool = False
    actors: list[NamedActor] = field(default_factory=list)
    """Who was asked."""
    references: list[Any] = field(default_factory=list)
    answers: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Point:
    """Where ranks come back to."""

    step: int
    """Optimiser steps that are done there."""
    is_copy: bool
    directory: str | None = None
    """Otherwise, the checkpoint; None: the model that was loaded."""

    def __str__(self) -> str:
        if self.is_copy:
            return f"their copies of optimiser step {self.step}"
        return f"{self.directory}, where training began" if self.directory else "the model that training began with"


class LastingRanks:
    """Ray actors, one per rank. Without a :class:`Revival` a death ends the call, and the use of all of them."""

    def __init__(self, actors: Sequence[NamedActor], timeout: float, revival: Revival | None) -> None:
        self.actors = list(actors)
        self.notice: Callable[[ActorFailed, str], Fault] | None = None
        """Told of a rank's death and of what follows; may refuse by an error. None: nobody is there to be told, and
        ranks do not come back."""
        self.lacking = ""
        """Why ranks that died have not come back."""
        self._timeout = timeout
        self._revival = revival
        self._joining: tuple[float, float] = (0.0, 0.0)
        self._start_time: StartTime | None = None
        """Of ranks; None before they were asked to meet."""
        self._loading: tuple[tuple[Any, ...], float] = ((), 0.0)
        self._began = _Point(0, False)
        self._journal: deque[Call] = deque()
        """Calls that change what is trained, in their order."""
        self._begun = self._done = 0
        """Optimiser steps that were asked for, and that are answered."""
        self._reviving = threading.Lock()
        self._awaited: set[Call] = set()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for an answer, and so learns of a death."""
        return bool(self._awaited)

    def join(self, start: float, rendezvous: float) -> None:
        """Let the ranks meet: ``start`` seconds for all of them to be there, ``rendezvous`` for them to connect."""
        self._joining = start, rendezvous
        if self._start_time is None:
            self._start_time = StartTime(start, _LATER_SECONDS)
        answers = [actor.handle.rendezvous.remote() for actor in self.actors]
        address, port = self._start_time.wait(answers, "learners to start", self.actors)[0]
        what = f"learner ranks to meet at {address}:{port}"
        self._once("join", what, address, port, seconds=rendezvous + ANSWER_SECONDS)
        if self._revival is not None:
            holders = self._revival.holders
            handles = [(handle, holders.elsewhere) for handle in holders.ready()]
            call = Call("keep_copies", handles, "learner ranks to know their copies", self._timeout)
            self._send(call)
            get(call.references, call.seconds, call.what, call.actors)

    def load(self, *arguments: Any, seconds: float) -> list[Any]:
        """Load a model; training begins with it."""
        self._loading = arguments, seconds
        self._drop_copies()
        found = self._once("load", f"learner ranks to load {arguments[0]}", *arguments, seconds=seconds)
        self._begin(_Point(0, False))
        return found

    def restore(self, directory: str) -> list[Any]:
        """Load a checkpoint; training begins with it."""
        self._drop_copies()
        found = self._once("restore", f"checkpoint {directory} to be loaded", directory)
        step = self._once("copies", "learner ranks to say their step")[0][0] if self._revival is not None else 0
        self._begin(_Point(step, False, directory))
        return found

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]], what: str) -> list[Any]:
        """Answers of a method that changes nothing that is trained; arguments are by rank."""
        return self.answers(self.started(method, arguments, what))

    def started(self, method: str, arguments: Sequence[tuple[Any, ...]], what: str) -> Call:
        """As :meth:`call`, but returns at once; see :meth:`answers`."""
        call = Call(method, arguments, what, self._timeout)
        self._send(call)
        return call

    def work(self, method: str, arguments: Sequence[tuple[Any, ...]], what: str, *, ends_step: bool) -> Call:
        """Give the ranks work on their next optimiser step, and return at once.

        Ranks take their calls in order.
        """
        call = Call(method, arguments, what, self._timeout, self._begun, ends_step)
        self._begun += ends_step
        if self._revival is not None:
            self._journal.append(call)
        self._send(call)
        return call

    def answers(self, call: Call) -> list[Any]:
        """A call's answers, by rank; where ranks died, those of others, which have done it again."""
        with self._awaiting(call):
            while call.answers is None:
                asked = call.references
                try:
                    call.answers = get(asked, call.seconds, call.what, call.actors)
                except ActorFailed as failed:
                    if not self._revived(failed, call, asked):
                        raise
        if call.ends_step and call.step is not None:
            self._has_done(call.step)
        return call.answers

    def _send(self, call: Call) -> None:
        call.actors, call.answers = self.actors, None
        call.references = [
            getattr(actor.handle, call.method).remote(*mine)
            for actor, mine in zip(call.actors, call.arguments, strict=True)
        ]

    def _once(self, method: str, what: str, *arguments: Any, seconds: float | None = None) -> list[Any]:
        """Call every rank with the same arguments; a death is an error."""
        call = Call(method, [arguments] * len(self.actors), what, seconds or self._timeout)
        self._send(call)
        with self._awaiting(call):
            return get(call.references, call.seconds, call.what, call.actors)

    @contextmanager
    def _awaiting(self, call: Call) -> Iterator[None]:
        self._awaited.add(call)
        try:
            yield
        finally:
            self._awaited.discard(call)

    def _begin(self, point: _Point) -> None:
        self._began, self._begun, self._done = point, point.step, point.step
        self._journal.clear()

    def _has_done(self, step: int) -> None:
        first = self._done == self._began.step
        self._done = max(self._done, step + 1)
        # In a step that is answered every rank had its copy of the one before: nobody goes back further.
        while self._journal and self._journal[0].step < self._done - 1:  # type: ignore[operator]
            self._journal.popleft()
        if first and self._revival is not None and (refusal := self._refusal()):
            self._revival.tell(f"{refusal}; where a learner dies, training goes back to its last checkpoint")

    def _refusal(self) -> str:
        answers = self.call("copies", [()] * len(self.actors), "learner ranks to say whether they are copied")
        return next((refusal for _, refusal in answers if refusal), "")

    def _revived(self, failed: ActorFailed, call: Call, asked: list[Any]) -> bool:
        """Whether ranks are back after a death, so that ``call``, which had failed, can be waited for again."""
        if not rank_died(failed) or self._revival is None or self.notice is None:
            return False
        with self._reviving:
            # Unless another thread has found them dead, brought them back, and asked again.
            if call.references is asked and call.actors is self.actors:
                self._settle()
                if not self._bring_back(settled(failed)):
                    return False
            if call.references is asked and call.answers is None:
                self._send(call)
            return True

    def _bring_back(self, failed: ActorFailed) -> bool:
        assert self._revival is not None
        assert self.notice is not None
        self.lacking = ""
        while not self._revival.is_ending():
            point = self._point()
            if point is None:
                return False
            fault = self.notice(failed, f"all ranks are restarted and go on from {point}")
            try:
                if not self._started_again(point):
                    return False
            except (ActorFailed, DeadlineExceeded) as again:
                if isinstance(again, DeadlineExceeded) or not rank_died(again):
                    log.warning("learner ranks did not come back from %s", point, exc_info=True)
                    self.lacking = f"they did not come back from {point}"
                    return False
                failed = again
                continue
            for call in self._journal:
                assert call.step is not None
                if call.step >= point.step:
                    self._send(call)
            self._revival.faults.back(fault, f", from {point}")
            return True
        return False

    def _started_again(self, point: _Point) -> bool:
        assert self._revival is not None
        actors = self._revival.restart()
        if actors is None:
            return False
        self.actors = actors
        self.join(*self._joining)
        if not point.is_copy:
            self._drop_copies()
        arguments, seconds = self._loading
        self._once("load", f"learner ranks to load {arguments[0]} again", *arguments, seconds=seconds)
        if point.is_copy:
            self._once("restore_copy", f"learner ranks to go on from {point}", point.step)
        elif point.directory:
            self._once("restore", f"learner ranks to go on from {point}", point.directory)
        return True

    def _settle(self) -> None:
        """Take the answers that came before the death: what they are of is not done again."""
        import ray

        for call in self._journal:
            if call.ends_step and call.answers is None:
                if ray.wait(call.references, num_returns=len(call.references), timeout=0.0)[1]:
                    return
                try:
                    call.answers = get(call.references, ANSWER_SECONDS, call.what, call.actors)
                except ActorFailed:
                    return
                assert call.step is not None
                self._done = max(self._done, call.step + 1)

    def _point(self) -> _Point | None:
        """Where all ranks can come back to so that what came after is in the journal; None: nowhere."""
        assert self._revival is not None
        latest = [self._done, self._done - 1]
        held = self._revival.holders.steps()
        known = [steps for steps in held if steps is not None]
        whole = set.intersection(*known) if len(known) == len(held) else set()
        for step in latest:
            if step in whole:
                return _Point(step, True)
        if self._began.step in latest:
            return self._began
        are_there = len(known) == len(held)
        self.lacking = (
            f"for {'no copy of their state is whole on all of them' if are_there else 'their copies are gone too'}"
        )
        return None

    def _drop_copies(self) -> None:
        if self._revival is not None:
            self._revival.holders.drop()
