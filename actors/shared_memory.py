"""Names in this machine's shared memory: who has them mapped, and those that killed processes leave.

What a process makes there under a name outlives it. Python and vLLM remove their names when they end; who is killed
does not: a semaphore for each engine, and half a gigabyte of buffers for one whose layers are shared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

FOLDER = Path("/dev/shm")
# Of Python's shared memory and semaphores, and of vLLM; other names may be a user's.
_OF_ENGINES = ("psm_", "sem.mp-", "vllm_")


def mapped_by(processes: Iterable[psutil.Process]) -> set[str]:
    """Names that these processes have mapped."""
    found: set[str] = set()
    prefix = f"{FOLDER}/"
    for process in processes:
        # It has ended, or is another user's.
        with suppress(OSError):
            lines = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
            found |= {line.partition(prefix)[2] for line in lines if prefix in line and not line.endswith("(deleted)")}
    return found


def of_engines(processes: Iterable[psutil.Process]) -> tuple[str, ...]:
    """Of the names that these processes have mapped those that Python or vLLM gave."""
    return tuple(sorted(name for name in mapped_by(processes) if name.startswith(_OF_ENGINES)))


def remove_unused(names: Iterable[str]) -> list[str]:
    """Remove names that no process has mapped any more; returns them."""
    left = {name for name in names if name.startswith(_OF_ENGINES) and "/" not in name and (FOLDER / name).exists()}
    removed = sorted(left - mapped_by(psutil.process_iter())) if left else []
    for name in removed:
        with suppress(FileNotFoundError):
            os.unlink(FOLDER / name)
    return removed
