"""How often a process looks for garbage in cycles."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Look for garbage after 50,000 new objects, not after Python's 700.

    torch, Transformers and vLLM make more than a million objects when they are imported, which all stay: by default
    Python goes through them again and again, for a sixth of the time that the imports take.
    """
    gc.set_threshold(50_000, 20, 20)
