"""Where an actor's own output goes: a file of the run, not the driver's terminal. On request also what it is doing."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from actors.errors import machine_fault
from actors.redaction import redact

_STACKS = signal.SIGUSR1
_READ_BYTES = 2**20


class _Output:
    """Where this process's output goes."""

    path: str | None = None
    start = 0
    """Of the file, where this process found it: it may hold what others in its place have written."""


class LogFormatter(logging.Formatter):
    """Lines of every log file: moment, level, name, message and traceback, with secrets in them hidden."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redact(super().format(record))


class LogFile(logging.FileHandler):
    """A log that may miss lines, where the machine refuses to write them: what the process does says so itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing for a fault of the machine; else what Python does."""
        error = sys.exc_info()[1]
        if not isinstance(error, Exception) or machine_fault(error, self.baseFilename) is None:
            super().handleError(record)

    def close(self) -> None:
        """Close the file, of which what could not be written is lost."""
        with suppress(OSError):
            super().close()


def redirect_output(path: str | None) -> None:
    """Send this process's standard output and error, and those of its children, to ``path`` (appended to).

    Works on file descriptors, so that C++ libraries and the processes an engine starts write there too. ``None``
    leaves the output where it is.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _Output.path, _Output.start = path, os.fstat(descriptor).st_size
        os.close(descriptor)
        answer_with_stacks()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def written_by_this_process() -> str:
    """What this process and its children have written to their log, of its last MiB; "" where it has none."""
    if _Output.path is None:
        return ""
    with open(_Output.path, "rb") as file:
        file.seek(max(_Output.start, os.fstat(file.fileno()).st_size - _READ_BYTES))
        return file.read().decode("utf-8", errors="replace")


def answer_with_stacks() -> None:
    """Let this process write the stacks of all its threads to its standard error whenever it gets SIGUSR1.

    The handler is C code and needs no lock of the interpreter, so it answers where a thread is stuck in C too.
    """
    faulthandler.register(_STACKS, file=2, all_threads=True)


def write_stacks(paths: Sequence[str], seconds: float = 5.0) -> list[str]:
    """Have every process of this machine that logs to one of ``paths`` add its stacks; returns the logs that grew.

    Only processes that called :func:`answer_with_stacks` are sent the signal: others would end by it.
    """
    sizes = {path: os.path.getsize(path) for path in paths if os.path.exists(path)}
    writers = {path: list(_writers(path)) for path in sizes}
    for process in chain.from_iterable(writers.values()):
        with suppress(ProcessLookupError):
            os.kill(process, _STACKS)
    waiting = {path for path, processes in writers.items() if processes}
    asked, seen, deadline = set(waiting), dict(sizes), time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        now = {path: os.path.getsize(path) for path in waiting}
        # Until a log has grown and stopped: a process gets its signal when it next runs, which may be a moment later.
        waiting = {path for path in waiting if now[path] == sizes[path] or now[path] != seen[path]}
        seen |= now
    return [path for path in sizes if path in asked and seen[path] > sizes[path]]


def _writers(path: str) -> Iterator[int]:
    """Processes whose standard error is ``path`` and that catch the signal, as Linux tells of them."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "status").read_text(encoding="utf-8", errors="replace")
            caught = int(status.partition("SigCgt:")[2].split()[0], 16)
            if caught >> (_STACKS - 1) & 1 and os.path.samefile(process / "fd" / "2", path):
                yield int(process.name)
        except (OSError, IndexError):
            continue  # It has ended, or is another user's.
