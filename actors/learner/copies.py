"""Copies of a rank's training state in memory, made after every optimiser step while the next one's gradients are.

A copy holds what a checkpoint holds: parameters that are trained, the optimisers' state, random number generators, and
the counts of steps. Parameters and optimisers change in an optimiser step only, so a copy has the time of everything
until the next; that one waits for it. Its ranks then all meet for the norm of the gradients. So where one of them is in
a step's update, or after it, the copy of the step before is whole on every rank: of two places the other one may be
overwritten, and what is whole on all is never lost.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch

from actors.causes import one_line
from actors.deadlines import ANSWER_SECONDS
from actors.errors import UserError
from actors.learner.agreement import Outcome, Ranks
from actors.learner.holder import PAGE, PLACES, Head, read_head, write_head
from actors.learner.training_state import Entry, StateRecord, give_state, state_tensors, table_of
from actors.memory import free_memory

if TYPE_CHECKING:
    from actors.learner.steps import Trainer

log = logging.getLogger(__name__)

_ALIGNED = 64
_RECORD_ROOM = 2**16
"""Bytes for a record beyond twice those of the first: all are of nearly the same length."""
_TIMES_FREE = PLACES + 1
"""Times a copy's bytes that have to be free: a checkpoint that is written in the background takes one more."""
_SEND_SECONDS = 600.0
"""For a copy to be on another node: gigabytes, over a network."""
_BEHIND_SECONDS = 10.0
"""How long a step waits for the copy before it to be on another node: then that node has none of it, and nobody is
taken for stuck."""


class NoCopies(UserError, RuntimeError):
    """There are no copies, or not the one that is asked for; says why."""


class Holder(Protocol):
    """Owns memory that outlives this process; see :class:`actors.learner.holder.CopyHolder`."""

    def reserve(self, size: int) -> str: ...

    def held(self) -> tuple[str, list[int]]: ...

    def send(self, step: int) -> str: ...

    def forget(self, step: int) -> None: ...


class RemoteHolder:
    """A holder that is a Ray actor."""

    def __init__(self, handle: Any, elsewhere: bool) -> None:
        """``elsewhere``: it sends copies to another node."""
        self._handle = handle
        self._elsewhere = elsewhere

    def reserve(self, size: int) -> str:
        """See :meth:`CopyHolder.reserve`."""
        return self._answer(self._handle.reserve.remote(size))

    def held(self) -> tuple[str, list[int]]:
        """See :meth:`CopyHolder.held`."""
        return self._answer(self._handle.held.remote())

    def send(self, step: int) -> str:
        """See :meth:`CopyHolder.send`."""
        return self._answer(self._handle.send.remote(step), _SEND_SECONDS) if self._elsewhere else ""

    def forget(self, step: int) -> None:
        """See :meth:`CopyHolder.forget`."""
        if self._elsewhere:
            self._answer(self._handle.forget.remote(step))

    def _answer(self, reference: Any, seconds: float = ANSWER_SECONDS) -> Any:
        import ray

        return ray.get(reference, timeout=seconds)


class Memory:
    """The places for copies of one size, mapped into this process."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(self._descriptor).st_size
        self._place = (size - PAGE) // PLACES
        self._bytes = torch.frombuffer(mmap.mmap(self._descriptor, size), dtype=torch.uint8)

    @classmethod
    def needed(cls, tensors: Sequence[torch.Tensor], record: int) -> int:
        """Bytes of all places and their heads, for copies of such tensors and with records of about this length."""
        place = sum(_aligned(tensor.nbytes) for tensor in tensors) + 2 * record + _RECORD_ROOM
        return PAGE + PLACES * -(-place // PAGE) * PAGE

    def close(self) -> None:
        """Let the memory go, which is unmapped with the last tensor over it."""
        os.close(self._descriptor)
        del self._bytes

    def invalidate(self, step: int) -> None:
        """Let the place for this step's copy hold nothing."""
        write_head(self._descriptor, step % PLACES, Head())

    def write(self, step: int, tensors: Sequence[torch.Tensor], record: bytes) -> None:
        """Make a copy, in the place of the older one. It is there when it is whole.

        Raises:
            NoCopies: the record is too long.

        """
        self.invalidate(step)
        place = step % PLACES
        views, begin = self._views(place, tensors)
        end = PAGE + (place + 1) * self._place
        if begin + len(record) > end:
            raise NoCopies(f"a record of {len(record)} bytes does not fit into the {end - begin} that are left for it")
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor)
        self._bytes[begin : begin + len(record)] = torch.frombuffer(bytearray(record), dtype=torch.uint8)
        write_head(self._descriptor, place, Head(step, begin, len(record)))

    def record(self, step: int) -> bytes:
        """The record of a copy.

        Raises:
            NoCopies: there is no copy of this step that is whole.

        """
        head = read_head(self._descriptor, step % PLACES)
        if head.step != step:
            raise NoCopies(f"there is no whole copy of optimiser step {step}")
        return self._bytes[head.begin : head.begin + head.length].numpy().tobytes()

    def read(self, step: int, tensors: Sequence[torch.Tensor]) -> None:
        """Fill tensors, which are as those of the copy, with what they were."""
        for view, tensor in zip(self._views(step % PLACES, tensors)[0], tensors, strict=True):
            tensor.copy_(view)

    def _views(self, place: int, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
        """A place's bytes as such tensors, and where they end."""
        begin, views = PAGE + place * self._place, []
        for tensor in tensors:
            part = self._bytes[begin : begin + tensor.nbytes]
            views.append(part.view(tensor.dtype).view(tensor.shape))
            begin += _aligned(tensor.nbytes)
        return views, begin


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


class Copier:
    """Copies one trainer's state after each of its steps. All ranks have one, or none."""

    def __init__(self, holder: Holder) -> None:
        self.refusal = ""
        """Why there are no copies; empty: there are."""
        self.seconds = 0.0
        """What the last copy took, beside whatever went on."""
        self._holder = holder
        self._memory: Memory | None = None
        self._table: list[Entry] = []
        self._thread: threading.Thread | None = None
        self._is_written = threading.Event()
        """Whether the copy that was begun last is whole on this node; it may be on its way to another."""
        self._is_written.set()
        self._told = ""

    def begin(self, trainer: Trainer) -> None:
        """Copy the state as it is now, while other things are done that do not change it. All ranks call this."""
        self.finish()
        tensors = list(state_tensors(trainer))
        table = table_of(tensors)
        plain = [tensor for _, tensor in tensors]
        record = pickle.dumps(StateRecord.of(trainer, table))
        if table != self._table:
            # The first copy, or an optimiser has state now where it had none: on all ranks alike.
            self._open(Memory.needed(plain, len(record)))
            self._table = table
        if self._memory is None or self.refusal:
            return
        # Now, and not when the thread comes to it: whoever is told of this step may count on it.
        self._memory.invalidate(trainer.step)
        stream = None
        if trainer.device == "cuda":
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
        arguments = (self._memory, trainer.step, plain, record, stream)
        self._is_written.clear()
        self._thread = threading.Thread(target=self._copy, args=arguments, name="copy", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the copy that is being made: what it is of may change then.

        And, for some seconds, until it is on another node, where copies are sent to one: all ranks meet after this, so
        what is whole there is of the step before on every rank.
        """
        self._is_written.wait()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_BEHIND_SECONDS)

    def close(self) -> None:
        """Copy no more, and let the memory go."""
        self.finish()
        self._let_go()

    def restore(self, trainer: Trainer, step: int) -> None:
        """Make the trainer what it was when the copy was made; further copies go into the same memory.

        Raises:
            NoCopies: it is not there, or of another model or optimiser.

        """
        path, _ = self._holder.held()
        if not path:
            raise NoCopies("there are no copies")
        self.close()
        self._memory = Memory(path)
        record: StateRecord = pickle.loads(self._memory.record(step))
        # What a rank had of the step after it, others had not.
        self._memory.invalidate(step + 1)
        self._holder.forget(step + 1)
        give_state(trainer, record)
        tensors = list(state_tensors(trainer))
        self._table = table_of(tensors)
        if self._table != record.table:
            raise NoCopies(f"the copy of optimiser step {step} is of another model or optimiser")
        with torch.no_grad():
            self._memory.read(step, [tensor for _, tensor in tensors])
        record.give_counts(trainer)

    def _copy(self, memory: Memory, step: int, tensors: list[torch.Tensor], record: bytes, stream: Any) -> None:
        began = time.monotonic()
        try:
            with torch.no_grad(), torch.cuda.stream(stream) if stream else nullcontext():
                memory.write(step, tensors, record)
        except Exception as error:
            # Training goes on without.
            log.exception("no copy of optimiser step %d", step)
            self.refusal = one_line(str(error))
        finally:
            self.seconds = time.monotonic() - began
            self._is_written.set()
        if not self.refusal:
            self._send(step)

    def _send(self, step: int) -> None:
        """Let the holder send a copy to another node, if it has a peer there."""
        try:
            why = self._holder.send(step)
        except Exception as error:
            why = one_line(str(error))
        if why != self._told:
            log.info("copies on another node: %s", f"none of optimiser step {step}: {why}" if why else "there again")
            self._told = why

    def _open(self, size: int) -> None:
        """Have memory for copies, on all ranks or on none."""
        self._let_go()
        ranks, here = Ranks(), socket.gethostname()
        together = sum(bytes_there for host, bytes_there in ranks.gather((here, size)) if host == here)
        try:
            ranks.on_every(lambda: self._opened(size, together), NoCopies)
        except NoCopies as error:
            self._let_go()
            self.refusal = str(error)

    def _opened(self, size: int, together: int) -> Outcome[bool]:
        """Have memory on this rank; ``together`` are the bytes of all ranks of this machine."""
        free, needed = free_memory(), together / PLACES * _TIMES_FREE
        if free < needed:
            return None, (
                f"copies of the learners' state take {together / 2**30:.1f} GiB of {socket.gethostname()}'s memory and "
                f"are made where {needed / 2**30:.1f} GiB are free, but {free / 2**30:.1f} are"
            )
        try:
            self._memory = Memory(self._holder.reserve(size))
        except Exception as error:
            log.exception("no memory for copies")
            return None, f"no memory for copies of the learners' state: {one_line(str(error))}"
        return True, None

    def _let_go(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._memory = None
