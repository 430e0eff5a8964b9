"""A session's verifier that does not start again has another in its place."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import ray.cloudpickle
from deaths import is_gone, kill_actor

from actors.deadlines import NamedActor
from actors.messages import Trace, VerificationRequest
from actors.verifier.actor import RewardVerifier
from pipelines.config.compose import load_config
from pipelines.job.verifier import LastingVerifier
from pipelines.job.watch import Watch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster"), pytest.mark.slow]

# Processes of the cluster do not find this folder: send them the class, not its name.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class NeverReady(RewardVerifier):
    async def ready(self) -> bool:
        await asyncio.Event().wait()
        return True


def test_one_that_does_not_start_again_is_given_up(tmp_path: Path) -> None:
    config = load_config(["cluster.stuck_after=3"])
    coming = iter((RewardVerifier, NeverReady))
    started: list[NamedActor] = []

    def start(kind: type, role: str, member: int, name: str, *arguments: Any, log: str) -> NamedActor:
        path = str(tmp_path / f"{log}.log")
        handle: Any = ray.remote(next(coming, kind)).options(num_cpus=0)
        started.append(NamedActor(handle.remote(*arguments, path), name, path, "verifier"))
        return started[-1]

    watch = Watch(config)
    verifier = LastingVerifier(lambda: config, start, lambda: None, watch)  # type: ignore[arg-type, return-value]
    try:
        scoring = verifier.ready().handle
        # A first start of a quarter of a second: those that follow may take 3.5, then 7, then 14.
        verifier._start_time.first = 0.25
        kill_actor(started[0].handle)
        one, zero = np.ones(1, np.int32), np.zeros(1, np.float32)
        trace = Trace("p", 0, one, zero, "<answer>[[A]]</answer>", "stop", one)
        request = VerificationRequest(trace, "A", "p", "chosen_first", "chat")
        [scored] = asyncio.run(asyncio.wait_for(scoring.score.remote([request]), 120))
        assert scored.reward == 1.0
        assert len(started) >= 3
        # On a busy machine another may be late as well.
        assert any(fault.why.startswith("did not start within 4 s") for fault in watch.faults.seen)
        assert verifier._start_time.late == 0
    finally:
        verifier.end()
        watch.close()
    assert is_gone(started[1].handle)
