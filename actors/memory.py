"""How much memory this process's machine has left, for what is better not there than the end of everything else."""

from __future__ import annotations

from pathlib import Path

import psutil

# A control group's limit, what it takes, and the key of the cache among it that goes when memory is needed.
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the machine has free, or that its control group may still take, whichever is less."""
    left = [float(psutil.virtual_memory().available)]
    for limit, usage, cache in _GROUPS:
        try:
            most, taken = float((root / limit).read_text()), float((root / usage).read_text())
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # Not there, or "max".
            continue
        given_back = sum(float(line.split()[1]) for line in lines if line.split()[0] == cache)
        left.append(most - taken + given_back)
    return min(left)
