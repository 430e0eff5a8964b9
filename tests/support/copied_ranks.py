"""One of two learner ranks without Ray, whose copies are in memory of the process that started it.

Its arguments say which, where its copies go, whether it goes on from one, how many steps it takes in all, in which of
them it kills itself, and where it leaves every bit that it has trained.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import Any

from judge_ranks import cut, sequences
from small_settings import small_learner, small_optimizer

from actors.learner import random_state
from actors.learner.actor import Learner
from actors.learner.training_state import state_tensors


class Given:
    """Memory that is there already."""

    def __init__(self, path: str) -> None:
        self._path = path

    def reserve(self, size: int) -> str:
        assert os.stat(self._path).st_size >= size
        return self._path

    def held(self) -> tuple[str, list[int]]:
        return self._path, []

    def send(self, step: int) -> str:
        return ""

    def forget(self, step: int) -> None:
        pass


def play(rank: int, model: str, path: str, begin: int, steps: int, dies_in: int, left: str) -> None:
    learner = Learner(rank, 2, small_learner(timeout=60.0))
    if rank == 0:
        address, port = learner.rendezvous() or ("", 0)
        print(address, port, flush=True)
    else:
        address, port = sys.stdin.readline().split()  # type: ignore[assignment]
    learner.join(address, int(port))
    learner._holder = Given(path) if path else None
    learner.load(model, None, small_optimizer(name="muon", learning_rate=1e-3, total_steps=10, warmup_steps=3))
    if begin:
        learner.restore_copy(begin)
    moved: list[int] = []
    """By micro-batch, the step."""

    def count() -> None:
        step = learner._trainer.step
        moved.append(step)
        if step + 1 == dies_in and moved.count(step) == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    learner._trainer.moved = count
    for step in range(begin, steps):
        learner.supervised_step(*cut(sequences(30, step), rank, 2))
        assert moved.count(step) > 3
    trainer = learner._trainer
    found: dict[str, Any] = {name: tensor.numpy().tobytes() for name, tensor in state_tensors(trainer)}
    found |= {"counts": (trainer.step, trainer.skipped), "random": random_state.capture()}
    with open(left, "wb") as file:
        pickle.dump(found, file)
    # Nobody waits for the other.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    number, name, where, first, last, death, result = sys.argv[1:]
    play(int(number), name, where, int(first), int(last), int(death), result)
