"""Steps of all ranks that end alike on each of them, so that none waits for one that has given up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Outcome = tuple[T | None, str | None]
"""A result and None, or None and what to tell the user."""


class Ranks:
    """The ranks of a process group, or one process alone. A group is for one thread of each rank at a time."""

    def __init__(self, group: Any = None) -> None:
        """``group``: None for the default one."""
        import torch.distributed as dist

        self._group = group
        self.distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.distributed else 0
        self.count = dist.get_world_size() if self.distributed else 1

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in rank order, on every rank."""
        import torch.distributed as dist

        if not self.distributed:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def on_first(self, attempt: Callable[[], Outcome[T]], error: type[Exception]) -> T:
        """Run ``attempt`` on rank 0 alone; every rank gets its result, or ``error`` with its problem."""
        import torch.distributed as dist

        outcome: list[Any] = [attempt() if self.rank == 0 else None]
        if self.distributed:
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        result, problem = outcome[0]
        if problem is not None:
            raise error(problem)
        return result

    def on_every(self, attempt: Callable[[], Outcome[T]], error: type[Exception]) -> list[T]:
        """Run ``attempt`` on every rank; each gets all results, or ``error`` with the problem of the first."""
        outcomes = self.gather(attempt())
        for _, problem in outcomes:
            if problem is not None:
                raise error(problem)
        return [result for result, _ in outcomes]  # type: ignore[misc]
