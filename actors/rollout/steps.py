"""Counts an engine's steps as they arrive: what says that it still works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Steps:
    """What is known of an engine's steps; apart, so that what counts them does not hold the engine."""

    count: int = 0
    asked: float = 0.0
    """When the last request was made."""
    longest: float = 0.0
    """Seconds that the longest of them took."""
    updates: int = 0
    """Weight updates under way."""
    longest_update: float | None = None
    """Seconds that the longest took that came to its end; None: none has."""

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Inside, weights are loaded, and no step is made."""
        self.updates += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.updates -= 1
        self.longest_update = max(self.longest_update or 0.0, time.monotonic() - began)

    def count_those_of(self, core: Any) -> None:
        """Have what vLLM's process sends after each of its steps counted where it is received."""
        receive = core.get_output_async

        async def counted() -> Any:
            waits = time.monotonic()
            outputs = await receive()
            self.count += 1
            # Before there was something to do, it did not stand still.
            self.longest = max(self.longest, time.monotonic() - max(waits, self.asked))
            return outputs

        core.get_output_async = counted
