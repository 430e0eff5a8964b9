"""How far a learner rank is, for whoever listens while it computes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from actors.liveness import Beat

Method = TypeVar("Method", bound=Callable[..., Any])


class Progress:
    """Counts what a rank has done; read from another thread than the one that does it."""

    def __init__(self) -> None:
        self._count = 0
        self._at = ""
        self._since = 0.0
        self._longest: dict[str, float] = {}

    def moved(self) -> None:
        """Another part of the work is done, such as a micro-batch."""
        now = time.monotonic()
        self._longest[self._at] = max(self._longest.get(self._at, 0.0), now - self._since)
        self._since = now
        self._count += 1

    def begin(self, what: str) -> None:
        """Work of this kind begins."""
        self._at, self._since = what, time.monotonic()

    def end(self) -> None:
        """It is done."""
        self.moved()
        self._at = ""

    def beat(self) -> Beat:
        """What a listener is told."""
        return Beat(self._count, self._at, self._longest.get(self._at))


def at_work(method: Method) -> Method:
    """A method of an object with a ``progress``, whose calls are work of the method's name."""

    @functools.wraps(method)
    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        self.progress.begin(method.__name__)
        try:
            return method(self, *arguments, **named)
        finally:
            self.progress.end()

    return counted  # type: ignore[return-value]
