"""vLLM as one would use it without this project: ``LLM`` with the tiny recipe's limits, and its defaults elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bare_engine(model: str, max_model_len: int) -> Iterator[Any]:
    """A ``vllm.LLM`` in this process, whose own processes end with the block; one OpenMP thread, no compilation."""
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    from vllm import LLM

    engine = LLM(
        model=model,
        dtype="float32",
        max_model_len=max_model_len,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        enforce_eager=True,
        disable_log_stats=True,
        seed=0,
        logprobs_mode="processed_logprobs",
    )
    try:
        yield engine
    finally:
        # Or this process waits for the engine's at its end.
        engine.llm_engine.engine_core.shutdown()
