"""Where an actor's own output goes: a file of the run, not the driver's terminal."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from actors.redaction import redact


class LogFormatter(logging.Formatter):
    """Lines of every log file: moment, level, name, message and traceback, with secrets in them hidden."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redact(super().format(record))


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
        os.close(descriptor)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
