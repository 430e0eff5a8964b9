"""What the driver adds to a step with many engines. Only here are engines simulated: token streams on a clock.

Each simulated engine finishes its traces evenly over a generation of ten seconds, as a real one does over minutes; one
in a hundred fails. The overhead is what a step takes beyond that: dispatch, streams, verification, groups, advantages.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pipelines.speed.timing import ROUNDS

ENGINES = (4, 16, 64, 256)
HOSTS = 2
GENERATION_SECONDS = 10.0
PROMPTS_PER_ENGINE, SAMPLES, LENGTH = 1, 8, 128
MEMORY_STEPS = 200
FAILING = 0.01


class SimulatedEngines:
    """A Ray actor that answers for many rollout workers at once; ``generate`` has the interface of one of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def generate(
        self, prompts: Sequence[Any], sampling: Any, samples: Sequence[Sequence[int]] | None = None
    ) -> AsyncIterator[list[Any]]:
        """Finish the traces of ``prompts`` at even distances over the time a generation takes.

        ``samples`` are the numbers of those wanted of each, where some are asked for again: these come at once, because
        the time that they take is the engines', not the driver's.
        """
        import numpy as np

        from actors.messages import GenerationFailure, Trace

        numbers = samples or [range(sampling.samples)] * len(prompts)
        wanted = [(prompt.uid, sample) for prompt, each in zip(prompts, numbers, strict=True) for sample in each]
        started, seconds = time.monotonic(), 0.0 if samples else self._seconds
        for number, (uid, sample) in enumerate(wanted):
            due = started + seconds * (number + 1) / len(wanted)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if random.random() < FAILING:
                yield [GenerationFailure(uid, sample, "engine_error", "simulated")]
                continue
            yield [
                Trace(
                    uid,
                    sample,
                    np.zeros(LENGTH, np.int32),
                    np.zeros(LENGTH, np.float32),
                    f"<answer>[[{'AB'[number % 2]}]]</answer>",
                    "stop",
                    np.zeros(LENGTH, np.int32),
                )
            ]


def driver() -> dict[str, Any]:
    """Overhead as a share of a step by number of engines, and the driver's memory over many short steps."""
    import psutil

    from pipelines.config.compose import load_config
    from pipelines.job.session import Session
    from pipelines.runs.folder import RunDirectory

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([f"output_root={folder}", "run=bench", "tracking=off"])
        with RunDirectory(folder, "bench") as run, Session(config, run) as session:
            verifier = session.verifier()
            hosts = _hosts(GENERATION_SECONDS)
            for count in ENGINES:
                taken = asyncio.run(_steps(hosts, verifier, count, 3 if count < max(ENGINES) else ROUNDS))
                results[f"driver_overhead_{count}"] = statistics.median(taken) / GENERATION_SECONDS - 1
            process, short = psutil.Process(os.getpid()), _hosts(0.2)
            asyncio.run(_steps(short, verifier, 16, 20))
            before = process.memory_info().rss
            asyncio.run(_steps(short, verifier, 16, MEMORY_STEPS))
            results["driver_memory_growth_mb"] = (process.memory_info().rss - before) / 2**20
    return results


def _hosts(seconds: float) -> list[Any]:
    import ray

    from actors.deadlines import NamedActor

    actor = ray.remote(SimulatedEngines).options(num_cpus=0, max_concurrency=1000)
    return [NamedActor(actor.remote(seconds), f"simulated engines {host}") for host in range(HOSTS)]


async def _steps(hosts: Sequence[Any], verifier: Any, engines: int, steps: int) -> list[float]:
    from actors.messages import Prompt, Sampling
    from actors.rollout.fleet import RolloutFleet
    from pipelines.config import Algorithm
    from pipelines.loop.batches import policy_batch
    from pipelines.loop.rollouts import RolloutBatch, ScoredItem, collect

    fleet = RolloutFleet([hosts[index % len(hosts)] for index in range(engines)], 120.0)
    prompts = [
        Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "bench", tuple(range(64)))
        for index in range(engines * PROMPTS_PER_ENGINE)
    ]
    taken = []
    for step in range(steps):
        started = time.perf_counter()
        items: dict[int, ScoredItem] = {}
        alone = [[prompt] for prompt in prompts]
        await collect(fleet.generate, verifier, alone, Sampling(SAMPLES), arrived=items.__setitem__)
        policy_batch(RolloutBatch.of(list(items.values())).groups, Algorithm(), len(prompts), weight_version=step)
        taken.append(time.perf_counter() - started)
    return taken
