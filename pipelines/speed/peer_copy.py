"""What copies of the learners' state in memory cost a step, and how soon ranks are back by them."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.deadlines import ActorFailed
from actors.learner.group import LearnerGroup
from actors.messages import TrainingSequence
from pipelines.config.compose import load_config
from pipelines.job.session import Session
from pipelines.job.settings import optimizer_settings
from pipelines.runs.folder import RunDirectory
from pipelines.speed.learner import RANKS, VOCABULARY, supervised_rows
from pipelines.speed.models import write_random_model
from pipelines.speed.timing import ROUNDS, seconds

_ROUNDS = 5 * ROUNDS
"""Pairs of steps: two per cent are to be told from nothing."""


def peer_copy() -> dict[str, float]:
    """Supervised steps of the tiny model on 64 sequences, two ranks of one thread, AdamW, by two groups in turn, one
    with copies. ``peer_copy_share_of_step`` is the median, of pairs, of what the step with copies takes longer, and
    ``peer_copy_seconds`` what a copy takes, beside the next step. Then a rank of each is killed: seconds until all are
    back, by their copies, or by a checkpoint, steps not counted.
    """
    sequences = [
        TrainingSequence(np.array(prompt, np.int32), np.array(text, np.int32)) for prompt, text in supervised_rows()
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = Path(folder) / "model"
        write_random_model(model, VOCABULARY)
        load, _ = stack.enter_context(_group(folder, model, True))
        load_without, session = stack.enter_context(_group(folder, model, False))
        group, without = load(), load_without()
        pairs = []
        for _ in range(_ROUNDS + 1):
            pairs.append(
                (seconds(lambda: group.supervised_step(sequences)), seconds(lambda: without.supervised_step(sequences)))
            )
        step = statistics.median(plain for _, plain in pairs[1:])
        copied = max(_of_ranks(group, lambda learner: learner._trainer.copier.seconds))
        back = _killed(group, lambda: group.supervised_step(sequences)) - step

        checkpoint = str(Path(folder) / "step-000001")
        without.save(checkpoint, {})

        def by_checkpoint() -> None:
            try:
                without.supervised_step(sequences)
            except ActorFailed:
                session.end_dead_learners()
                load_without().restore(checkpoint)

        back_by_checkpoint = _killed(without, by_checkpoint)
    return {
        "peer_copy_share_of_step": statistics.median(copies / plain - 1 for copies, plain in pairs[1:]),
        "peer_copy_step_seconds": step,
        "peer_copy_seconds": copied,
        "learner_back_seconds": back,
        "learner_back_seconds_by_checkpoint": back_by_checkpoint,
    }


@contextmanager
def _group(folder: str, model: Path, copies: bool) -> Iterator[tuple[Callable[[], LearnerGroup], Session]]:
    """What starts and loads a group, which may come back, and its session."""
    name = f"copies-{copies}".lower()
    config = load_config(
        [
            *(f"output_root={folder}", f"run={name}", "tracking=off", f"learner.ranks={RANKS}"),
            "distill.optimizer.name=adamw",
            *(f"learner.peer_copy={copies}", "cluster.rollout_cpus=0", "cluster.learner_cpus=0.25"),
        ]
    )
    optimizer = optimizer_settings(config.distill.optimizer, 10 * _ROUNDS)
    with RunDirectory(folder, name) as run, Session(config, run) as session:

        def load() -> LearnerGroup:
            group = session.learners()
            group.ranks.notice = lambda failed, then: session.faults.noticed("learner", str(failed.actor), "died", then)
            group.load(str(model), None, optimizer, config.cluster.start_timeout)
            return group

        yield load, session


def _of_ranks(group: LearnerGroup, value: Callable[[Any], Any]) -> list[Any]:
    import ray

    return ray.get([actor.handle.__ray_call__.remote(value) for actor in group.actors], timeout=60)


def _killed(group: LearnerGroup, then: Callable[[], Any]) -> float:
    """Seconds from the death of a rank to the end of ``then``."""
    os.kill(_of_ranks(group, lambda learner: learner.processes().members[0][0])[-1], signal.SIGKILL)
    return seconds(then)
