"""Ray actors in the place of rollout workers and learner ranks, for tests of what calls them: no engine, no model."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.cloudpickle

from actors.deadlines import NamedActor
from actors.learner.progress import Progress, at_work
from actors.liveness import Beat
from actors.logs import redirect_output
from actors.messages import (
    ChannelTerms,
    GenerationFailure,
    LoadedWeights,
    MemoryUse,
    Prompt,
    Sampling,
    TensorEntry,
    Trace,
    WeightUpdate,
)
from actors.processes import Processes, of_this_actor
from actors.restarts import Faults, StartTime
from actors.rollout.errors import UpdateFailed, UpdateFailedAgain
from actors.rollout.roster import Revival

# Processes of the cluster do not find this folder: send them the classes, not their names.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

UPDATE = WeightUpdate(1, "somewhere", (TensorEntry("head", "float32", (2,), 7),), checksum=11)


def trace(prompt: Prompt, sample: int, version: int = 0) -> Trace:
    """One token, the number of the sample."""
    return Trace(
        prompt.uid,
        sample,
        np.array([sample], np.int32),
        np.zeros(1, np.float32),
        "",
        "stop",
        np.full(1, version, np.int32),
    )


class StreamingWorker:
    """Has the interface of a rollout worker. ``fault`` says what goes wrong while it generates or loads weights."""

    def __init__(self, settings: Any, log_path: str | None = None, fault: str = "") -> None:
        if log_path is not None:
            redirect_output(log_path)
            print(f"started on {getattr(settings, 'model', settings)}", flush=True)
        self._fault = fault
        self._hangs = False
        self._version = self._tries = 0

    async def start(self, version: int) -> None:
        """Ready at once."""
        if self._fault == "refuses to start":
            raise ValueError("no start")
        if self._fault == "never starts":
            await asyncio.Event().wait()

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, samples: Sequence[Sequence[int]] | None = None
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """One list per prompt; the fault comes after the first."""
        try:
            for prompt, numbers in zip(prompts, samples or [range(sampling.samples)] * len(prompts), strict=True):
                if self._fault == f"dies of {prompt.uid}":
                    os._exit(1)
                yield [trace(prompt, sample, self._version) for sample in numbers]
                if self._fault == "die":
                    os._exit(1)
                if self._fault == "raise":
                    raise ValueError("no more ink")
                if self._fault == "hang":
                    await self.hang_in_generation()
        except (asyncio.CancelledError, GeneratorExit):
            # The second where what it yielded was still on its way.
            print("given up", flush=True)
            raise

    async def hang_in_generation(self) -> None:
        """For ever, or until nobody waits for it."""
        self._hangs = True
        await asyncio.Event().wait()

    async def update_weights(self, update: WeightUpdate) -> LoadedWeights:
        """What it was sent, unless the fault is in what it says it holds."""
        if self._fault == f"cannot open {update.version}":
            raise FileNotFoundError(f"version {update.version}")
        if self._fault == "can load no more" and update.version > 1:
            self._tries += 1
            raise (UpdateFailed, UpdateFailedAgain)[self._tries > 1](f"version {update.version}: no memory")
        if self._fault == "cannot load" or (self._fault == "cannot load once" and not self._tries):
            self._tries += 1
            raise UpdateFailed(f"version {update.version}: no memory")
        version = self._version = update.version - (self._fault == "old version")
        return LoadedWeights(version, (update.checksum or UPDATE.checksum) + (self._fault == "other bytes"), 0.25)

    async def sleep(self, at_once: bool) -> MemoryUse:
        """Say so."""
        print("gave up" if at_once else "fell asleep", flush=True)
        return MemoryUse(2, 1)

    async def wake(self, part: str) -> None:
        """Say so."""
        print(f"woke {part}", flush=True)

    async def join_channel(self, terms: ChannelTerms, first_rank: int) -> None:
        """Say where it was told to meet."""
        print(f"joined {terms.address}:{terms.port} as {first_rank} of {terms.size}", flush=True)

    async def beat(self) -> Beat:
        """Nothing to do, unless it hangs; one that is at it says so."""
        return Beat(0, "generate" if self._hangs else "")

    async def processes(self) -> Processes:
        return of_this_actor()

    async def stop(self) -> None:
        """Say so."""
        print("stopped", flush=True)


class RankWithoutModel:
    """Has the part of a learner rank's interface that needs no model."""

    def __init__(self, rank: int, world_size: int, settings: Any, log_path: str | None = None) -> None:
        if log_path is not None:
            redirect_output(log_path)
            print(f"rank {rank} of {world_size}", flush=True)
        self._rank = rank

    def beat(self) -> Beat:
        return Beat(0, "")

    def processes(self) -> Processes:
        return of_this_actor()

    def rendezvous(self) -> tuple[str, int]:
        return "here", 1

    def join(self, address: str, port: int) -> None:
        if address != "here":
            raise ConnectionError(f"nobody meets at {address}:{port}")

    def keep_copies(self, holder: Any, elsewhere: bool) -> None:
        pass

    def load(self, *arguments: Any) -> int:
        return 0

    def publish(self, version: int, directory: str | None, dtype: str, sends: bool = False) -> WeightUpdate | None:
        print(f"published {version} as {dtype}", flush=True)
        self._published = WeightUpdate(version, directory, UPDATE.tensors, UPDATE.checksum)
        if sends and self._rank == 0:
            self.send()
        return self._published if self._rank == 0 else None

    def published(self) -> WeightUpdate:
        return self._published

    def save(self, directory: str, state: dict[str, Any], in_background: bool) -> None:
        print(f"saved {directory}", flush=True)

    def leave_device(self) -> MemoryUse:
        print("left", flush=True)
        return MemoryUse(2, 1)

    def take_device(self) -> None:
        print("came", flush=True)

    def open_channel(self) -> tuple[str, int]:
        return "there", 2

    def join_channel(self, terms: ChannelTerms) -> None:
        print(f"joined as 0 of {terms.size}", flush=True)

    def send(self) -> None:
        print("sent", flush=True)

    def remove_written(self, path: str) -> None:
        print(f"removed {path}", flush=True)


class BusyRank:
    """A rank that says how far it is while it computes, as a learner does."""

    def __init__(self) -> None:
        self.progress = Progress()

    @at_work
    def hang(self) -> None:
        """Compute for ever."""
        threading.Event().wait()

    def beat(self) -> Beat:
        return self.progress.beat()

    def processes(self) -> Processes:
        return of_this_actor()


def workers(folder: Path, *faults: str) -> list[NamedActor]:
    """A worker per fault (empty: none), with its log in ``folder``."""
    return [worker(folder, index, fault) for index, fault in enumerate(faults)]


def worker(folder: Path, index: int, fault: str = "") -> NamedActor:
    """One worker, with its log in ``folder``."""
    log = str(folder / f"rollout-{index}.log")
    handle: Any = ray.remote(StreamingWorker).options(num_cpus=0, max_concurrency=10)
    return NamedActor(handle.remote("model", log, fault), f"rollout worker {index}", log, "engine")


def reviving(folder: Path, faults: Faults, *later: str, start: StartTime | None = None) -> Revival:
    """Starts a worker in the place of each that died, with the next fault of ``later``, then without."""
    coming = iter(later)

    def restart(index: int, dead: NamedActor) -> NamedActor:
        ray.kill(dead.handle)
        return worker(folder, index, next(coming, ""))

    return Revival(restart, lambda _: None, faults, start or StartTime(120.0, 30.0))


def ranks(folder: Path, count: int, kind: type = RankWithoutModel) -> list[NamedActor]:
    """Learner ranks, with their logs in ``folder``."""
    made = []
    for rank in range(count):
        log = str(folder / f"learner-{rank}.log")
        handle: Any = ray.remote(kind).options(num_cpus=0)
        made.append(NamedActor(handle.remote(rank, count, None, log), f"learner rank {rank}", log, "learner"))
    return made
