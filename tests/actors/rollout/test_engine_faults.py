"""Real engines whose processes are killed in the middle of a batch: nothing is lost, and they come back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray
from commands import wait_until
from safetensors.torch import load_file

from actors.messages import Prompt, Sampling, Trace
from actors.processes import is_engine_core
from actors.rollout.fleet import RolloutFleet
from actors.weights.send import write_update
from pipelines.config.compose import load_config
from pipelines.data.tiny_model import build_tiny_model
from pipelines.job.session import Session
from pipelines.runs.folder import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

PROMPTS = [
    Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "d", tuple(range(3, 33))) for index in range(16)
]
SAMPLES = 4


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Two engines on the tiny model, which have been given weights of version 5."""
    folder = tmp_path_factory.mktemp("faults")
    model = folder / "model"
    build_tiny_model(model, [f"write mail {index} <answer>" for index in range(200)], seed=0)
    settings = ("rollout.workers=2", "cluster.rollout_cpus=0.5", "cluster.stuck_after=20", "tracking=off")
    config = load_config([f"output_root={folder}", "run=faults", *settings])
    with RunDirectory(folder, "faults") as run, Session(config, run) as opened:
        fleet = opened.rollouts(str(model))
        weights = load_file(model / "model.safetensors")
        fleet.update_weights(write_update(weights.items(), 5, str(opened.weights_directory)))
        yield opened


def processes(fleet: RolloutFleet, index: int) -> tuple[int, int]:
    """The worker's actor, and vLLM's process."""
    found = ray.get(fleet.workers[index].handle.processes.remote()).members
    numbers = [number for number, _ in found]
    [core] = [each for each in numbers[1:] if is_engine_core(psutil.Process(each))]
    return numbers[0], core


def batch(fleet: RolloutFleet, *signalled: tuple[int, int]) -> list[Any]:
    """All traces of a batch, in whose midst processes are sent signals."""

    async def collect() -> list[Any]:
        items: list[Any] = []
        async for ready in fleet.generate(PROMPTS, Sampling(samples=SAMPLES, max_tokens=600)):
            if not items:
                for process, number in signalled:
                    os.kill(process, number)
            items += ready
        return items

    return asyncio.run(asyncio.wait_for(collect(), 300))


def assert_whole(items: list[Any]) -> None:
    assert Counter((item.prompt_uid, item.sample) for item in items) == {
        (prompt.uid, sample): 1 for prompt in PROMPTS for sample in range(SAMPLES)
    }
    assert all(isinstance(item, Trace) for item in items), "no failure, and nothing that was made up"
    assert {int(version) for item in items for version in item.versions} == {5}, "also of one that has come back"


def wait_for_all(session: Session, faults: int) -> None:
    def back() -> bool:
        return len(session.faults.seen) >= faults and all(fault.back is not None for fault in session.faults.seen)

    wait_until(back, 300, f"{faults} faults to be over")
    assert len(session.faults.seen) == faults
    assert session.rollouts().roster.present() == [0, 1]


def test_vllms_process_is_killed(session: Session) -> None:
    fleet = session.rollouts()
    actor, core = processes(fleet, 0)
    assert_whole(batch(fleet, (core, signal.SIGKILL)))
    wait_for_all(session, 1)
    assert not psutil.pid_exists(actor), "the actor of a dead engine is replaced with it"
    assert_whole(batch(fleet))
