"""Memory that outlives a learner rank: two places for copies of its training state, owned by an actor beside it.

The memory has no name, so it ends with the processes that have it open. A rank writes into it directly; another rank
that is started in its place reads from it. Loads no torch.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

PLACES = 2
"""Copies that are kept: the last that is whole on all ranks, and the one after it, which may be under way."""
PAGE = 4096
"""Bytes before the first place, which hold the places' heads."""
NOTHING = -1
"""In the place of a step: no copy, or none that is whole."""
_HEAD = struct.Struct("<qqq")


@dataclass(frozen=True, slots=True)
class Head:
    """What is in a place."""

    step: int = NOTHING
    """Optimiser steps that its copy was made after."""
    begin: int = 0
    """Where its record is, from the beginning of the memory."""
    length: int = 0
    """Bytes of the record."""


def write_head(descriptor: int, place: int, head: Head) -> None:
    """Say what is in a place. By a call of the system, after all else: what a head tells of is there."""
    os.pwrite(descriptor, _HEAD.pack(head.step, head.begin, head.length), place * _HEAD.size)


def read_head(descriptor: int, place: int) -> Head:
    """What :func:`write_head` wrote last."""
    return Head(*_HEAD.unpack(os.pread(descriptor, _HEAD.size, place * _HEAD.size)))


class CopyHolder:
    """Owns the memory of one rank's copies. Made a Ray actor by the session, on the rank's node."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._size = 0

    def reserve(self, size: int) -> str:
        """A path to memory of so many bytes, for this user's processes of this node.

        It is the same memory, with what it holds, if that has the size; otherwise that of before is let go.

        Raises:
            OSError: there is no such memory on this system.

        """
        if self._descriptor is None or self._size != size:
            self.drop()
            if not hasattr(os, "memfd_create"):
                raise OSError("this system has no memory without a name")
            self._descriptor, self._size = os.memfd_create("learner-copies", os.MFD_CLOEXEC), size
            os.ftruncate(self._descriptor, size)
            for place in range(PLACES):
                write_head(self._descriptor, place, Head())
        return self._path()

    def held(self) -> tuple[str, list[int]]:
        """The path, and the optimiser steps of the copies that are whole; none where nothing is reserved."""
        if self._descriptor is None:
            return "", []
        steps = [read_head(self._descriptor, place).step for place in range(PLACES)]
        return self._path(), [step for step in steps if step != NOTHING]

    def drop(self) -> None:
        """Let the memory go; it is free when the rank has let it go as well."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def _path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"
