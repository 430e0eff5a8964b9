"""An engine whose layers two processes share, inside a Ray actor that holds several devices of a placement group."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from rollout_actors import UPDATE
from small_settings import small_engine
from transformers import AutoModelForCausalLM

from actors.deadlines import ActorFailed, NamedActor
from actors.messages import Prompt, Sampling, Trace
from actors.placement import Placement, Role, reserve
from actors.processes import Processes, is_engine, is_engine_core, kill
from actors.rollout.fleet import RolloutFleet
from actors.rollout.worker import RolloutWorker
from pipelines.data.tiny_model import build_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

PROMPT = Prompt("0/chosen_first", "0", "chosen_first", "A", "test", tuple(range(10, 22)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("parallel") / "model"
    build_tiny_model(folder, ["write mail : mention cat", "<answer>[[A]]</answer>"] * 20, seed=0, hidden=128, heads=4)
    return str(folder)


@pytest.fixture(scope="module")
def placement(cluster: None) -> Iterator[Placement]:
    """A bundle of two devices, which vLLM's own choice of executor would refuse."""
    placement = reserve([Role("rollout", 1, 1.0, 2, "")], 60.0)
    yield placement
    placement.release()


@dataclass
class Host:
    """A worker, what calls it, and the processes of its engine."""

    actor: NamedActor
    fleet: RolloutFleet
    family: list[psutil.Process]
    core: psutil.Process
    workers: list[psutil.Process]
    processes: Processes
    """All of them, as the actor says."""


@pytest.fixture(scope="module")
def host(model: str, placement: Placement, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    import ray

    log = str(tmp_path_factory.mktemp("logs") / "rollout.log")
    kind: Any = ray.remote(RolloutWorker).options(max_concurrency=100, **placement.options("rollout", 0))
    actor = NamedActor(kind.remote(small_engine(model, tensor_parallel=2), log), "rollout worker 0", log)
    fleet = RolloutFleet([actor], 600.0)
    fleet.start(0, 600.0)
    own = ray.get(actor.handle.__ray_call__.remote(lambda worker: os.getpid()), timeout=60)
    family = psutil.Process(own).children(recursive=True)
    [core] = [process for process in family if is_engine_core(process)]
    workers = [process for process in family if is_engine(process) and process != core]
    yield Host(actor, fleet, family, core, workers, ray.get(actor.handle.processes.remote(), timeout=60))
    ray.kill(actor.handle)
    # Those of Python's multiprocessing as well, which an actor has for as long as it lives.
    assert ended(family)


def ended(processes: list[psutil.Process]) -> bool:
    """Whether all end, soon; one that its parent has not asked about yet is a zombie."""
    left = psutil.wait_procs(processes, timeout=30)[1]
    return all(process.status() == psutil.STATUS_ZOMBIE for process in left)


def generate(host: Host, samples: int, tokens: int) -> list[Any]:
    """All that the worker answers."""

    async def collect() -> list[Any]:
        stream = host.fleet.generate([PROMPT], Sampling(samples=samples, max_tokens=tokens))
        return [answer async for ready in stream for answer in ready]

    return asyncio.run(collect())


def test_shared_layers_compute_what_whole_ones_do(host: Host, model: str) -> None:
    assert [worker.ppid() for worker in host.workers] == [host.core.pid] * 2
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    traces = generate(host, samples=8, tokens=24)
    assert len(traces) == 8
    for trace in traces:
        assert isinstance(trace, Trace)
        tokens = torch.tensor([[*PROMPT.token_ids, *trace.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = lm(input_ids=tokens).logits[0].log_softmax(-1)
        start = len(PROMPT.token_ids)
        exact = logprobs[torch.arange(start - 1, tokens.shape[1] - 1), tokens[0, start:]]
        np.testing.assert_allclose(trace.logprobs, exact.numpy(), atol=1e-5)


def test_a_process_that_dies_is_noticed_and_takes_the_others_with_it(host: Host) -> None:
    """Last: the engine is of no use afterwards."""
    host.workers[1].send_signal(signal.SIGKILL)
    death = r"rollout worker 0 \(log: .*rollout\.log\) failed: EngineDied: .* VllmWorker-1 died unexpectedly"
    with pytest.raises(ActorFailed, match=death):
        generate(host, samples=4, tokens=24)
    with pytest.raises(ActorFailed, match=r"engines to load weight version 1: rollout worker 0"):
        host.fleet.update_weights(UPDATE)
    assert ended([host.core, *host.workers])
    # What of its shared memory vLLM itself could not remove any more goes when its place is cleared.
    names = set(host.processes.names)
    # With AVX-512 vLLM's processes add up their layers in shared memory of its own, else over torch.
    assert {"psm"} <= {name.partition("_")[0] for name in names} <= {"psm", "vllm"}
    kill(host.processes.members, host.processes.names)
    assert not names & set(os.listdir("/dev/shm"))
