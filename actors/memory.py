"""How much memory a process, or its device, has in use, and how much its machine has left."""

from __future__ import annotations

from pathlib import Path

import psutil

# A control group's limit, what it takes, and the key of the cache among it that goes when memory is needed.
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


# As torch says it without a class for it: of its CPU allocator, of files it maps, and of C++ itself.
_TORCH_SAYS = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that the machine or its device has no memory left for what was asked."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_SAYS)


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


def in_use(device: str) -> int:
    """Bytes in use on this process's device, by whomever; on CPU those of the process."""
    if device == "cpu":
        return psutil.Process().memory_info().rss
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def highest(device: str) -> int:
    """The most bytes that this process's tensors have had on its device since this was asked last; on CPU
    :func:`in_use`."""
    if device == "cpu":
        return in_use(device)
    import torch

    most = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return most
