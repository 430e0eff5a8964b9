"""How often a process looks for garbage in cycles."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Look for garbage after 10,000 new objects, not after Python's 700.

    torch, Transformers and vLLM make more than a million objects when they are imported, which all stay: by default
    Python goes through them again and again, for a sixth of the time that the imports take.
    """
    gc.set_threshold(10_000, 10, 10)


def collect_as_usual() -> None:
    """Look for garbage as often as Python does by default: tensors that only a cycle holds are few objects, but much
    memory."""
    gc.set_threshold(*_USUAL)
