"""The supervised loop with stand-ins for its actors: the ranks have a step while they compute the one before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pairs import many_pairs

from actors.messages import Prompt, Sampling, Trace, TrainingSequence
from pipelines.config.compose import load_config
from pipelines.data.prompts import DroppedPrompts
from pipelines.distill import train
from pipelines.stages.inputs import ChainSet, JudgingTask
from pipelines.stages.stage import open_run, open_stage
from pipelines.stages.training import open_training

[PAIR] = many_pairs(1)
HELDOUT = JudgingTask({PAIR.id: PAIR}, ((Prompt("p", PAIR.id, "chosen_first", "A", "d", (1,)),),), DroppedPrompts(0, 0))
CHAINS = ChainSet(tuple(TrainingSequence(np.ones(1, np.int32), np.ones(2, np.int32)) for _ in range(12)), 0, 3)


class Parts:
    """Learners, engines and weight transfer in one; notes what is asked of them, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._started = 0

    def start_supervised_step(self, sequences: Sequence[TrainingSequence]) -> Callable[[], dict[str, float]]:
        self._started += 1
        number = self._started
        self.events.append(f"start {number}")

        def wait() -> dict[str, float]:
            self.events.append(f"wait {number}")
            return {"loss": 1 / number, "tokens": 2.0 * len(sequences)}

        return wait

    def publish(self, version: int) -> float:
        self.events.append(f"publish {version}")
        return 0.0

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        self.events.append("judge")
        yield [Trace(prompt.uid, 0, np.ones(1, np.int32), None, "", "stop", np.zeros(1)) for prompt in prompts]

    def finish_saving(self) -> None:
        """Whatever was saved is whole."""

    def save(self, directory: str, state: dict[str, Any], in_background: bool = False) -> None:
        self.events.append(f"save {state['step']}")


@pytest.mark.slow
def test_a_step_is_started_before_the_last_one_is_waited_for_unless_its_weights_are_needed(tmp_path: Path) -> None:
    parts = Parts()
    config = load_config(
        [
            *("recipe=tiny", "run=loop", f"output_root={tmp_path}", "tracking=off", "distill.batch_size=2"),
            *("distill.epochs=1", "distill.checkpoints.every=4", "distill.evaluate_every=3"),
        ]
    )
    session: Any = SimpleNamespace(rollouts=lambda *_: parts, weight_sync=lambda: parts)
    with open_run(config) as run, open_stage(config, run, "distill") as stage:
        session.run = SimpleNamespace(base_model=lambda _: "model")
        with open_training(stage, cast(Any, parts), 6) as training:
            train(config, session, training, cast(Any, parts), CHAINS, HELDOUT)
        lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert parts.events == [
        *("start 1", "start 2", "wait 1", "start 3", "wait 2", "wait 3", "publish 3", "judge"),
        *("start 4", "wait 4", "save 4"),
        *("start 5", "start 6", "wait 5", "wait 6", "save 6"),
    ]
    metrics = [line["metrics"] for line in lines]
    assert [step["loss"] for step in metrics] == pytest.approx([1 / number for number in range(1, 7)])
    assert [step["epoch"] for step in metrics] == pytest.approx([number / 6 for number in range(1, 7)])
    assert ["eval/accuracy" in step for step in metrics] == [False, False, True, False, False, False]
    assert all(step["tokens_per_second"] == pytest.approx(4 / step["time/step"]) for step in metrics)
