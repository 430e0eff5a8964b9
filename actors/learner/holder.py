"""Memory that outlives a learner rank: two places for copies of its training state, owned by an actor beside it.

The memory has no name, so it ends with the processes that have it open. A rank writes into it directly; another rank
that is started in its place reads from it. What is to outlive the rank's node is sent to the holder of a rank of
another node, which keeps it as a guest. Loads no torch.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.causes import one_line
from actors.memory import free_memory

PLACES = 2
"""Copies that are kept: the last that is whole on all ranks, and the one after it, which may be under way."""
PAGE = 4096
"""Bytes before the first place, which hold the places' heads."""
NOTHING = -1
"""In the place of a step: no copy, or none that is whole."""
THREADS = 4
"""Calls that a holder works on at once: two holders that send to each other also receive."""
_HEAD = struct.Struct("<qqq")
_CHUNK = 16 << 20
"""Bytes that are sent at a time; the next are read meanwhile."""


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


class OwnedMemory:
    """The places for copies of one rank, as the process that owns them has them."""

    def __init__(self, size: int) -> None:
        """Raises OSError where the system has no such memory."""
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memory without a name")
        self.size = size
        self.descriptor = os.memfd_create("learner-copies", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, size)
        for place in range(PLACES):
            write_head(self.descriptor, place, Head())

    def heads(self) -> list[Head]:
        """What is in the places, in their order."""
        return [read_head(self.descriptor, place) for place in range(PLACES)]

    def steps(self) -> list[int]:
        """The optimiser steps of the copies that are whole."""
        return [head.step for head in self.heads() if head.step != NOTHING]

    def begin(self, place: int) -> int:
        """Where a place begins."""
        return PAGE + place * ((self.size - PAGE) // PLACES)

    def close(self) -> None:
        """Let it go; it is free when others have let it go as well."""
        os.close(self.descriptor)


class CopyHolder:
    """Owns the memory of one rank's copies. Made a Ray actor by the session, on the rank's node.

    Its methods may be called at the same time, but for those that take, give or let go a rank's memory.
    """

    def __init__(self) -> None:
        self._own: OwnedMemory | None = None
        self._guests: dict[int, OwnedMemory] = {}
        """Copies of ranks of other nodes."""
        self._peer: Any = None
        """The holder that has this one's copies as a guest's; None: nobody."""
        self._rank = 0
        self._sending = threading.Lock()

    def node(self) -> str:
        """Ray's name of the node."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def reserve(self, size: int) -> str:
        """A path to memory of so many bytes, for this user's processes of this node.

        It is the same memory, with what it holds, if that has the size; otherwise that of before is let go.

        Raises:
            OSError: there is no such memory on this system.

        """
        if self._own is None or self._own.size != size:
            self._let_go()
            self._own = OwnedMemory(size)
        return self._path()

    def held(self) -> tuple[str, list[int]]:
        """The path, and the optimiser steps of the copies that are whole; none where nothing is reserved."""
        return ("", []) if self._own is None else (self._path(), self._own.steps())

    def drop(self) -> None:
        """Let all memory go; it is free when the rank has let it go as well."""
        self._let_go()
        while self._guests:
            self._guests.popitem()[1].close()

    def send_to(self, peer: Any, rank: int) -> None:
        """From now on :meth:`send` gives the copies of ``rank``, whose holder this is, to ``peer``; None: to nobody."""
        self._peer, self._rank = peer, rank

    def send(self, step: int) -> str:
        """Give the copy of a step to the holder on another node; returns why it is not there, empty: it is.

        Whether it was overwritten meanwhile is looked at in the end: half of one is never taken for a whole one.
        """
        memory, peer = self._own, self._peer
        if peer is None or memory is None:
            return ""
        if not self._sending.acquire(blocking=False):
            return "the copy before is still on its way"
        try:
            place = step % PLACES
            head = read_head(memory.descriptor, place)
            if head.step != step:
                return "it was overwritten before it was sent"
            _answer(peer.expect.remote(self._rank, memory.size, place))
            under_way: list[Any] = []
            for offset, length in _chunks(memory.begin(place), head.begin + head.length):
                under_way.append(peer.receive.remote(self._rank, offset, os.pread(memory.descriptor, length, offset)))
                if len(under_way) > 1:
                    _answer(under_way.pop(0))
            for reference in under_way:
                _answer(reference)
            if read_head(memory.descriptor, place) != head:
                return "it was overwritten while it was sent"
            _answer(peer.finish.remote(self._rank, place, head))
        except Exception as error:
            # The peer is dead, or has no room: copies beside the rank are made all the same.
            return one_line(str(error))
        finally:
            self._sending.release()
        return ""

    def forget(self, step: int) -> None:
        """Let the peer's place for this step's copy hold nothing: that step is made again."""
        if self._peer is not None and self._own is not None:
            _answer(self._peer.expect.remote(self._rank, self._own.size, step % PLACES))

    def release(self, rank: int) -> None:
        """Keep the copies of another node's rank no longer."""
        if rank in self._guests:
            self._guests.pop(rank).close()

    def expect(self, rank: int, size: int, place: int) -> None:
        """A copy of another node's rank will come for this place, which holds nothing from now on.

        Raises:
            MemoryError: there is no room for it.

        """
        guest = self._guests.get(rank)
        if guest is None or guest.size != size:
            self.release(rank)
            if free_memory() < size:
                raise MemoryError(f"its node has no {size / 2**30:.1f} GiB free for copies of learner rank {rank}")
            guest = self._guests[rank] = OwnedMemory(size)
        write_head(guest.descriptor, place, Head())

    def receive(self, rank: int, offset: int, data: bytes) -> None:
        """A part of a copy."""
        written = os.pwrite(self._guests[rank].descriptor, data, offset)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes of a copy were written")

    def finish(self, rank: int, place: int, head: Head) -> None:
        """All of a copy is here."""
        write_head(self._guests[rank].descriptor, place, head)

    def guests(self, rank: int) -> tuple[int, list[Head]]:
        """Bytes of the memory of another node's rank, and what is in its places; 0 where none is kept."""
        guest = self._guests.get(rank)
        return (0, []) if guest is None else (guest.size, guest.heads())

    def give(self, rank: int, offset: int, length: int) -> bytes:
        """A part of a guest's copy."""
        return os.pread(self._guests[rank].descriptor, length, offset)

    def take(self, peer: Any, rank: int) -> list[int]:
        """Have what a peer keeps of ``rank``, whose holder this is, and has just been started; returns its steps."""
        size, heads = _answer(peer.guests.remote(rank))
        if not size:
            return []
        self.reserve(size)
        assert self._own is not None
        for place, head in enumerate(heads):
            if head.step != NOTHING:
                for offset, length in _chunks(self._own.begin(place), head.begin + head.length):
                    data = _answer(peer.give.remote(rank, offset, length))
                    os.pwrite(self._own.descriptor, data, offset)
                write_head(self._own.descriptor, place, head)
        return self._own.steps()

    def _let_go(self) -> None:
        if self._own is not None:
            self._own.close()
        self._own = None

    def _path(self) -> str:
        assert self._own is not None
        return f"/proc/{os.getpid()}/fd/{self._own.descriptor}"


def _chunks(begin: int, end: int) -> Iterator[tuple[int, int]]:
    return ((offset, min(_CHUNK, end - offset)) for offset in range(begin, end, _CHUNK))


def _answer(reference: Any) -> Any:
    import ray

    from actors.deadlines import ANSWER_SECONDS

    return ray.get(reference, timeout=ANSWER_SECONDS)
