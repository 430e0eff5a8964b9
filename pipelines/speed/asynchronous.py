"""What overlapping generation and learning gains: the same loop with ``max_staleness`` 0 and 1."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pipelines.speed.models import write_random_model
from pipelines.speed.rl_step import run_loop

VOCABULARY, MAX_TOKENS = 512, 128

# One learner rank on one core beside an engine on the other, and a reference model, so that both cost about the same.
_BALANCED = ("learner.ranks=1", "algorithm.kl_coefficient=0.001", "algorithm.old_logprobs=rollout")


def asynchronous() -> dict[str, Any]:
    """Forced lengths of 128; the ratio of the medians of a step, and what its parts took."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_random_model(model, VOCABULARY, ends=False)
        runs = {
            name: run_loop(
                model, VOCABULARY, MAX_TOKENS, Path(folder), (f"algorithm.max_staleness={staleness}", *_BALANCED)
            )
            for name, staleness in (("sync", 0), ("async", 1))
        }
    raw = {f"{name}_{key}": value for name, run in runs.items() for key, value in run.items()}
    return {"async_speedup": runs["sync"]["step_seconds"] / runs["async"]["step_seconds"]} | raw
