"""How vLLM's processes are started: by which executor, with which variables of the environment, and how they begin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from actors.rollout.settings import EngineSettings


def executor(settings: EngineSettings) -> Any:
    """vLLM's executor: processes of this machine where a layer is shared, and none of their own where it is not."""
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    if settings.tensor_parallel > 1:
        # Left to itself vLLM sees the actor's placement group and takes its Ray executor, which wants a bundle per
        # device. All devices of this engine are visible to this process.
        return "mp"
    # On CPU vLLM would put its only worker into another process, to set that one's OpenMP threads, which here are set
    # already. Scheduler and worker then wait for each other by spinning, and on few cores what spins takes the time of
    # what computes.
    return UniProcExecutor if settings.device == "cpu" else "uni"


@contextmanager
def environment(settings: EngineSettings, sockets: str) -> Iterator[None]:
    """The variables vLLM is set by, for the processes an engine starts and for no other: what this process starts
    later (another vLLM, say) must find neither this engine's threads nor its folder of sockets, which goes with it.
    """
    ours = {"VLLM_RPC_BASE_PATH": sockets}
    unless_set = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if settings.device == "cpu":
        if settings.enforce_eager:
            # vLLM compiles a part of its sampler all the same, for which the first request of every engine waits.
            ours["TORCH_COMPILE_DISABLE"] = "1"
        ours["OMP_NUM_THREADS"] = str(settings.threads)
        # Binding threads to cores is right when an engine owns its cores; here learners share them.
        unless_set["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    before = dict(os.environ)
    os.environ |= unless_set | before | ours
    # In whole GiB, and it would go before `rollout.memory_gib`.
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    try:
        yield
    finally:
        for name in (*unless_set, *ours, "VLLM_CPU_KVCACHE_SPACE"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextmanager
def beginning() -> Iterator[None]:
    """Processes that this one starts meanwhile run :mod:`actors.rollout.beginning` first.

    A process that multiprocessing spawns runs its parent's main module anew, for what may have been defined there; that
    of an actor is Ray's, which defines nothing that vLLM asks for.
    """
    main = sys.modules["__main__"]
    before, main.__spec__ = main.__spec__, find_spec("actors.rollout.beginning")
    try:
        yield
    finally:
        main.__spec__ = before
