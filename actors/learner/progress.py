"""How far a learner rank is, for whoever listens while it computes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from actors.causes import one_line
from actors.failures import Kind
from actors.liveness import Beat
from actors.memory import is_out_of_memory

Method = TypeVar("Method", bound=Callable[..., Any])

_IN_MICRO_BATCHES = ("supervised_step", "add_policy_gradients", "policy_step", "logprobs", "kl_to_reference")
"""Work that moves with every micro-batch, one as large as the next. Of all other work, such as a publication or a
checkpoint, one time says nothing about the next."""


class OutOfMemory(RuntimeError):
    """A rank lacks memory for work that it has done before: others took it, or it is in pieces. Another may have it."""

    kind: Kind = "learner"


class Progress:
    """Counts what a rank has done; read from another thread than the one that does it."""

    def __init__(self) -> None:
        self._count = 0
        self._at = ""
        self._since = 0.0
        self._longest: dict[str, float] = {}
        self._done: set[str] = set()
        """Work that was done to its end before: the first of a kind compiles, or makes the optimiser's state."""

    def moved(self) -> None:
        """Another part of the work is done, such as a micro-batch."""
        now = time.monotonic()
        self._longest[self._at] = max(self._longest.get(self._at, 0.0), now - self._since)
        self._since = now
        self._count += 1

    def begin(self, what: str) -> bool:
        """Work of this kind begins; whether some was done to its end before."""
        self._at, self._since = what, time.monotonic()
        return what in self._done

    def end(self, is_done: bool = True) -> None:
        """It is over: done to its end, or not."""
        self.moved()
        if is_done:
            self._done.add(self._at)
        self._at = ""

    def beat(self) -> Beat:
        """What a listener is told."""
        at = self._at
        is_measured = at in _IN_MICRO_BATCHES and at in self._done
        return Beat(self._count, at, self._longest.get(at) if is_measured else None, is_measured)


def at_work(method: Method) -> Method:
    """A method of an object with a ``progress``, whose calls are work of the method's name."""

    @functools.wraps(method)
    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        fitted = self.progress.begin(method.__name__)
        try:
            result = method(self, *arguments, **named)
        except Exception as error:
            self.progress.end(is_done=False)
            if fitted and is_out_of_memory(error):
                raise OutOfMemory(one_line(str(error))) from error
            raise
        self.progress.end()
        return result

    return counted  # type: ignore[return-value]
