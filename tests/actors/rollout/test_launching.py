"""Processes that an engine starts begin as they are meant to, and others of this process do not."""

from __future__ import annotations

import gc
import multiprocessing
import sys

from actors.rollout.launching import beginning


def thresholds() -> tuple[int, int, int]:
    """Of a process that multiprocessing spawns now."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(gc.get_threshold)


def test_what_vllm_starts_looks_for_garbage_seldom() -> None:
    before = sys.modules["__main__"].__spec__
    with beginning():
        assert thresholds() == (10_000, 10, 10)
    assert sys.modules["__main__"].__spec__ is before
    assert thresholds() == (700, 10, 10)
