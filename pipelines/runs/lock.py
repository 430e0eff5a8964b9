"""A lock on a folder that one process holds, and that ends with it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from actors.errors import UserError

_held: set[int] = set()


def _close_in_child() -> None:
    """A forked child shares the lock until it closes its copy; it must not keep the folder locked beyond its parent."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class FolderBusy(UserError, RuntimeError):
    """The folder is locked; names the holder."""


class FolderLock:
    """``<folder>/.lock``; ``shown`` is the folder's name in messages."""

    def __init__(self, folder: Path, shown: str) -> None:
        self._folder = folder
        self._shown = shown
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the folder where it is missing and take the lock.

        Raises:
            FolderBusy: another live process holds it, or this one does already.
            OSError: the folder cannot be made, or it cannot be locked.

        """
        if self._descriptor is not None:
            raise FolderBusy(f"{self._shown} is already open for writing in this process")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._take(self._folder / ".lock")
        _held.add(self._descriptor)

    def _take(self, file: Path) -> int:
        # Not inheritable, so that no process started from here (an engine, a Ray worker) keeps the folder locked.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise FolderBusy(f"{self._shown} is in use by {holder}") from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
