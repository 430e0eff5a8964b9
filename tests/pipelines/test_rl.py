"""The RL loop with stand-ins for its actors: the order of a step, what runs beside what, and how it continues."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkpoints import read_checkpoint, write_checkpoint
from pairs import many_pairs

from actors.learner.settings import PolicySettings
from actors.messages import (
    MemoryUse,
    Prompt,
    Sampling,
    ScoredTrace,
    Trace,
    TrainingSequence,
    Verdict,
    VerificationRequest,
)
from actors.turns import Together, Turns
from pipelines.config import Config
from pipelines.config.compose import load_config
from pipelines.data.order import batch_of
from pipelines.data.prompts import DroppedPrompts
from pipelines.rl import reinforce
from pipelines.stages.inputs import JudgingTask
from pipelines.stages.stage import open_run, open_stage

PAIRS = {pair.id: pair for pair in many_pairs(8)}
TASK = JudgingTask(
    PAIRS,
    tuple((Prompt(f"{name}/first", name, "chosen_first", "A", "chat", (1,)),) for name in PAIRS),
    DroppedPrompts(0, 0),
)


class Parts:
    """Engines, verifier, learners and weight transfer in one; notes what is asked of them, in order.

    ``random`` says how long each prompt takes: none of them any time.
    """

    def __init__(self, dies_at: int | None = None, random: Random | None = None) -> None:
        self.events: list[str] = []
        self.coefficients: list[float] = []
        self.written: list[str] = []
        """Pairs whose traces were written, in training."""
        self.handle = self
        self._dies_at = dies_at
        self._random = random
        self._version = 0
        self.score = SimpleNamespace(remote=self._score)
        self.full_round = 1 << 30
        self.turns = Together()

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        """Two tokens for every sample."""
        self.events.append("judge" if sampling.temperature == 0 else "generate")
        for prompt in prompts:
            versions = np.full(2, self._version, np.int32)
            for _ in range(self._random.choice((1, 3, 200)) if self._random else 0):
                await asyncio.sleep(0.001)
            yield [
                Trace(prompt.uid, sample, np.ones(2, np.int32), np.zeros(2, np.float32), "", "stop", versions)
                for sample in range(sampling.samples)
            ]
            if sampling.temperature:
                self.written.append(prompt.pair_id)

    async def _score(self, requests: Sequence[VerificationRequest]) -> list[ScoredTrace]:
        return [ScoredTrace(item.trace, Verdict("A", None), float(item.trace.sample % 2)) for item in requests]

    def policy_step(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> dict[str, float]:
        if len(self.coefficients) == self._dies_at:
            raise RuntimeError("the learner died")
        self.events.append("learn")
        self.coefficients.append(settings.kl_coefficient)
        return {"kl": 1.0}

    def publish(self, version: int) -> float:
        self.events.append(f"publish {version}")
        self._version = version
        return 0.25

    def finish_saving(self) -> None:
        """Whatever was saved is whole."""

    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        self.events.append(f"save {state['step']}")
        write_checkpoint(directory, state)

    def restore(self, directory: str) -> dict[str, Any]:
        return read_checkpoint(directory)


class PartsInTurn(Parts):
    """On the same devices, as fleet, learners and weight transfer use them; notes who moves, and the end of writing."""

    def __init__(self) -> None:
        super().__init__(random=Random(1))
        self.turns = Turns(60.0)
        self.turns.attach(engines=self, learners=self)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        async with self.turns.engines():
            async for traces in super().generate(prompts, sampling):
                yield traces
            self.events.append("written")

    def policy_step(self, sequences: Sequence[TrainingSequence], settings: PolicySettings) -> dict[str, float]:
        with self.turns.learners():
            return super().policy_step(sequences, settings)

    def publish(self, version: int) -> float:
        with self.turns.publishing():
            return super().publish(version)

    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        with self.turns.learners():
            super().save(directory, state, in_background)

    def sleep(self, at_once: bool) -> list[MemoryUse]:
        self.events.append("sleep")
        return [MemoryUse(0, 0)]

    def wake(self, part: str) -> None:
        self.events.append(f"wake {part}")

    def take_device(self) -> None:
        self.events.append("on")

    def leave_device(self) -> list[MemoryUse]:
        self.events.append("off")
        return [MemoryUse(0, 0)]


def run_loop(folder: Path, parts: Parts, *overrides: str) -> list[dict[str, Any]]:
    """The loop's part of an RL stage; returns the lines of metrics.jsonl."""
    config: Config = load_config(
        [
            *("recipe=tiny", "run=loop", f"output_root={folder}", "tracking=off"),
            # A folder, for any other name would be looked for on the hub.
            f"rl.policy={folder}",
            "data.orders=alternate",
            *("rl.prompts_per_step=2", "rl.mini_batch_prompts=2", "rl.steps=4", "rl.evaluate_every=3"),
            *("rl.checkpoints.every=2", "algorithm.kl_coefficient=1", "algorithm.kl_target=0.1"),
            *overrides,
        ]
    )
    with open_run(config) as run, open_stage(config, run, "rl") as stage:
        session = SimpleNamespace(run=run, rollouts=lambda *_: parts, verifier=lambda: parts, weight_sync=lambda: parts)
        session.metrics = parts.turns.metrics
        asyncio.run(reinforce(config, cast(Any, session), stage, cast(Any, parts), TASK, TASK.first(2)))
        return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def per_step(events: list[str]) -> Iterator[list[str]]:
    """Events from one publish to the next."""
    starts = [index for index, event in enumerate(events) if event.startswith("publish")]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        yield events[start:end]


@pytest.mark.slow
def test_a_step_generates_learns_publishes_begins_the_next_evaluates_and_saves(tmp_path: Path) -> None:
    parts = Parts()
    lines = run_loop(tmp_path, parts)
    assert list(per_step(parts.events)) == [
        ["publish 0", "generate", "learn"],
        ["publish 1", "generate", "learn"],
        ["publish 2", "generate", "save 2", "learn"],
        ["publish 3", "generate", "judge", "learn"],
        ["publish 4", "save 4"],
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    metrics = [line["metrics"] for line in lines]
    assert [step["weight_version"] for step in metrics] == [1, 2, 3, 4]
    assert ["eval/accuracy" in step for step in metrics] == [False, False, True, False]
    for step in metrics:
        spent = sum(step[f"time/{part}"] for part in ("generate", "verify", "wait", "learn", "publish"))
        assert spent == pytest.approx(step["time/step"])
        assert (step["publish_pause_seconds"], step["refill_rounds"]) == (0.25, 0.0)
    assert sorted(path.name for path in (tmp_path / "loop" / "traces").glob("*.parquet")) == [
        f"rl-rollouts-{step:06d}.parquet" for step in (1, 2, 3, 4)
    ]


@pytest.mark.slow
def test_on_the_same_devices_engines_and_learners_have_them_in_turn(tmp_path: Path) -> None:
    """The checkpoint of the second step waits for the third's traces, and learning follows it in the same turn."""
    parts = PartsInTurn()
    lines = run_loop(tmp_path, parts, "cluster.share_devices=true", "rl.learn_early=false", "learner.ranks=1")
    before, after = ["sleep", "on", "wake weights"], ["off", "wake kv_cache"]
    written = ["generate", "written", "sleep", "on"]
    # An evaluation and the traces of the next step are written at the same time, and end in any order.
    ends = groupby(parts.events, key=lambda event: event in ("judge", "written"))
    assert [event for are_ends, some in ends for event in (sorted(some) if are_ends else some)] == [
        *(*before, "publish 0", *after),
        *(*written, "learn", "wake weights", "publish 1", *after),
        *(*written, "learn", "wake weights", "publish 2", *after),
        *(*written, "save 2", "learn", "wake weights", "publish 3", *after),
        *("generate", "judge", "written", "written", "sleep", "on", "learn", "wake weights", "publish 4", *after),
        *("sleep", "on", "save 4"),
    ]
    for step in (line["metrics"] for line in lines):
        assert min(step[f"time/{name}"] for name in ("sleep", "wake", "offload", "onload")) > 0
        spent = sum(step[f"time/{part}"] for part in ("generate", "verify", "wait", "learn", "publish"))
        assert spent == pytest.approx(step["time/step"])


@pytest.mark.slow
def test_one_version_ahead_a_step_is_always_under_way(tmp_path: Path) -> None:
    parts = Parts()
    lines = run_loop(
        tmp_path, parts, "algorithm.max_staleness=1", "algorithm.correction=truncate", "rl.evaluate_every=0"
    )
    # Two steps begin at once, and one more as soon as a step is published.
    assert parts.events[:6] == ["publish 0", "generate", "learn", "publish 1", "generate", "learn"]
    assert parts.events.count("generate") == 3, "none is begun beyond the last step"
    assert [line["metrics"]["staleness_max"] for line in lines] == [0, 1, 1, 1]
    assert [line["metrics"]["items_waiting"] for line in lines[-1:]] == [0]
    assert parts.events[-2:] == ["publish 4", "save 4"]


@pytest.mark.slow
def test_a_loop_that_died_continues_with_its_coefficient_as_if_it_had_not(tmp_path: Path) -> None:
    whole, died, continued = Parts(), Parts(dies_at=3), Parts()
    run_loop(tmp_path / "whole", whole)
    with contextlib.suppress(RuntimeError):
        run_loop(tmp_path / "parts", died)
    lines = run_loop(tmp_path / "parts", continued)
    assert died.events[-1] != "save 4"
    assert continued.events[0] == "publish 2"
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert whole.coefficients == pytest.approx([1.02**step for step in range(4)])
    assert died.coefficients[:2] + continued.coefficients == whole.coefficients
    # Step 3 was trained on after the checkpoint, step 4 was not; both had been written.
    assert (died.written, continued.written) == (whole.written, [])
    assert trained(tmp_path / "parts" / "loop") == trained(tmp_path / "whole" / "loop")
    assert [line["metrics"]["time/generate"] for line in lines[2:]] == [0.0, 0.0]


def trained(run: Path) -> list[list[str]]:
    """The pairs that each step was trained on, from its traces."""
    steps = []
    for file in sorted(run.glob("traces/rl-rollouts-*.parquet")):
        rows = pq.read_table(file).to_pylist()
        steps.append([row["pair_id"] for row in rows if row["sample"] == 0])
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_loop_ahead_that_died_loses_no_prompt_and_repeats_none(tmp_path: Path, seed: int) -> None:
    ahead = ("algorithm.max_staleness=2", "algorithm.correction=truncate", "rl.steps=8", "rollout.max_sequences=32")
    written: list[str] = []
    for dies_at in (3, 5, None):
        parts = Parts(dies_at, Random(seed))
        with contextlib.suppress(RuntimeError):
            lines = run_loop(tmp_path, parts, *ahead, "rl.epochs=2", "rl.evaluate_every=0")
        written += parts.written
    steps = trained(tmp_path / "loop")
    assert [len(step) for step in steps] == [2] * 8
    assert Counter(chain.from_iterable(steps)) == Counter(dict.fromkeys(PAIRS, 2)), "two epochs of eight pairs"
    assert max(line["metrics"]["staleness_max"] for line in lines) <= 2
    # What had been written when a loop died, but not scored, may be written once more.
    assert len(written) <= 16 + 2 * 2
    in_order = [sorted(list(PAIRS)[item] for item in batch_of(8, 0, 2, step, 2)) for step in range(8)]
    assert [sorted(step) for step in steps] != in_order, "some passed others"
