"""Copies in memory: exact, of the moment they began, whole or not there, two at most. No Ray."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_ranks import LORA, POLICY, build_model, cut, policy, sequences
from small_settings import small_learner, small_optimizer

from actors import memory
from actors.learner import copies
from actors.learner.actor import Learner
from actors.learner.copies import Memory, NoCopies
from actors.learner.holder import PAGE, PLACES, CopyHolder
from actors.learner.training_state import state_tensors

OPTIMIZERS = {
    "adamw": small_optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.1, total_steps=10, warmup_steps=4),
    "muon": small_optimizer(name="muon", learning_rate=1e-3, muon_learning_rate=0.01, total_steps=10),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_model(tmp_path_factory.mktemp("copies") / "model")


@pytest.fixture
def holder() -> Iterator[CopyHolder]:
    made = CopyHolder()
    yield made
    made.drop()


def load(learner: Learner, model: str, holder: CopyHolder, optimizer: str = "adamw", **settings: Any) -> None:
    learner._settings = small_learner(reshard_after_forward=False, **settings)
    learner._holder = holder
    learner.load(model, None, OPTIMIZERS[optimizer])


def step(learner: Learner, seed: int) -> dict[str, float]:
    return learner.supervised_step(*cut(sequences(6, seed), 0, 1))


def state(learner: Learner) -> dict[str, bytes]:
    """Every bit of what is trained, the optimisers' own account of it included."""
    trainer = learner._trainer
    found = {name: tensor.numpy().tobytes() for name, tensor in state_tensors(trainer)}
    for number, optimizer in enumerate(trainer.optimizers):
        for place, entry in optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                plain = getattr(value, "_local_tensor", value)
                found[f"{number}.{place}.{key}"] = plain.numpy().tobytes() if torch.is_tensor(plain) else plain
        found[f"{number}.groups"] = repr(optimizer.state_dict()["param_groups"]).encode()
    return found | {"counts": f"{trainer.step} {trainer.skipped}".encode()}


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [("adamw", {}), ("muon", {}), ("adamw", {"lora": LORA})],
    ids=["adamw", "muon", "adapters"],
)
def test_who_comes_into_its_place_goes_on_as_if_nothing_had_been(
    learner: Learner, model: str, holder: CopyHolder, optimizer: str, settings: dict[str, Any]
) -> None:
    load(learner, model, holder, optimizer, **settings)
    for seed in range(3):
        step(learner, seed)
    expected, numbers = state(learner), draws()
    step(learner, 3)
    ended = state(learner)

    again = copy.copy(learner)
    load(again, model, holder, optimizer, **settings)
    assert state(again).keys() < expected.keys(), "an optimiser that has not stepped has no state"
    again.restore_copy(3)
    assert state(again) == expected != ended
    assert draws() == numbers
    step(again, 3)
    assert state(again) == ended
    again._trainer.copier.finish()
    assert sorted(holder.held()[1]) == [3, 4]


@pytest.mark.slow
def test_a_copy_has_what_a_checkpoint_has(learner: Learner, model: str, holder: CopyHolder, tmp_path: Path) -> None:
    load(learner, model, holder, "muon")
    for seed in range(2):
        step(learner, seed)
    learner.save(str(tmp_path / "step-000002"), {})
    load(learner, model, holder, "muon")
    learner.restore(str(tmp_path / "step-000002"))
    of_checkpoint, numbers = state(learner), draws()
    load(learner, model, holder, "muon")
    learner.restore_copy(2)
    assert (state(learner), draws()) == (of_checkpoint, numbers)


@pytest.mark.slow
def test_a_copy_is_of_the_moment_it_began_and_the_next_step_waits_for_it(
    learner: Learner, model: str, holder: CopyHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(learner, model, holder)
    step(learner, 0)
    learner._trainer.copier.finish()
    begun, go_on, write = threading.Event(), threading.Event(), Memory.write

    def slow(self: Memory, *arguments: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        write(self, *arguments)

    monkeypatch.setattr(Memory, "write", slow)
    step(learner, 1)
    expected = state(learner)
    assert begun.wait(60)
    assert holder.held()[1] == [1], "not whole yet"
    # Gradients, and whatever else leaves parameters as they are, do not wait for it; the next step's update does.
    learner.logprobs(cut(sequences(6, 2), 0, 1)[0], 1.0)
    next_step = threading.Thread(target=step, args=(learner, 2))
    next_step.start()
    next_step.join(2.0)
    assert next_step.is_alive()
    assert state(learner) == expected
    go_on.set()
    next_step.join(60)
    assert not next_step.is_alive()
    learner._trainer.copier.finish()
    learner.restore_copy(2)
    assert state(learner) == expected


@pytest.mark.slow
def test_steps_that_are_skipped_are_counted(learner: Learner, model: str, holder: CopyHolder) -> None:
    """The first of all is: no optimiser has state then, and with the second copies grow."""
    poisoned = [dataclasses.replace(item, advantage=float("nan")) for item in sequences(6, 0)]
    plain = dataclasses.replace(POLICY, kl_coefficient=0.0)
    load(learner, model, holder)
    assert policy(learner, poisoned, plain)["skipped_steps"] == 1.0
    expected = state(learner)
    learner._trainer.copier.finish()
    load(learner, model, holder)
    learner.restore_copy(1)
    assert state(learner) == expected
    step(learner, 1)
    expected = state(learner)
    learner._trainer.copier.finish()
    assert holder.held()[1] == [2], "that of before had no room for state"
    load(learner, model, holder)
    learner.restore_copy(2)
    assert state(learner) == expected


@pytest.mark.slow
def test_what_another_model_left_is_refused(learner: Learner, model: str, holder: CopyHolder, tmp_path: Path) -> None:
    load(learner, model, holder)
    step(learner, 0)
    load(learner, build_model(tmp_path / "wider", intermediate_size=41), holder)
    with pytest.raises(NoCopies, match="of another model or optimiser"):
        learner.restore_copy(1)
    load(learner, model, holder)
    with pytest.raises(NoCopies, match="no whole copy of optimiser step 2"):
        learner.restore_copy(2)
    holder.drop()
    with pytest.raises(NoCopies, match="there are no copies"):
        learner.restore_copy(1)


KILLED = """
    import os, signal, sys, torch
    from actors.learner.copies import Memory

    memory = Memory(sys.argv[1])
    tensors = [torch.full((1000,), float(value)) for value in range(8)]
    for step in (1, 2):
        memory.write(step, tensors, b"record")
    copy, copied = torch.Tensor.copy_, []

    def dying(self, other):
        copied.append(0)
        if len(copied) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return copy(self, other)

    torch.Tensor.copy_ = dying
    memory.write(3, [tensor + 1 for tensor in tensors], b"record")
"""


@pytest.mark.slow
def test_what_a_killed_process_left_half_is_not_there(holder: CopyHolder) -> None:
    tensors = [torch.zeros(1000) for _ in range(8)]
    path = holder.reserve(Memory.needed(tensors, 6))
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), path],
        cwd=Path(__file__).parents[3],
        check=False,
        capture_output=True,
        text=True,
    )
    assert died.returncode == -9, died.stderr
    assert holder.held() == (path, [2]), "of step 1 a part is overwritten, step 3 is not whole"
    left = Memory(path)
    assert left.record(2) == b"record"
    left.read(2, tensors)
    assert [float(tensor.unique()) for tensor in tensors] == list(range(8))
    for step in (1, 3):
        with pytest.raises(NoCopies):
            left.record(step)
    left.close()


@pytest.mark.slow
def test_two_copies_are_kept_in_memory_that_ends_with_its_holder(
    learner: Learner, model: str, holder: CopyHolder
) -> None:
    load(learner, model, holder)
    for seed in range(5):
        step(learner, seed)
    learner._trainer.copier.finish()
    path, steps = holder.held()
    made = os.stat(path)

    def opened() -> int:
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # What lists them.
                found += os.path.samestat(os.stat(entry), made)
        return found

    def mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum(f" {made.st_ino} " in line and "learner-copies" in line for line in lines)

    assert sorted(steps) == [4, 5]
    assert (opened(), mapped()) == (3, 1), "the holder's, the rank's, and that of its mapping"
    tensors = [tensor for _, tensor in state_tensors(learner._trainer)]
    once = sum(tensor.nbytes for tensor in tensors)
    assert PLACES * once < made.st_size < PLACES * (once + 64 * len(tensors) + 2**18) + PAGE
    assert made.st_blocks * 512 <= made.st_size
    learner._trainer.copier.close()
    assert (opened(), mapped()) == (1, 0)
    holder.drop()
    assert opened() == 0
    learner._trainer = None


@pytest.mark.slow
def test_without_room_nothing_is_copied_and_it_is_said_why(
    learner: Learner, model: str, holder: CopyHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "free_memory", lambda: 2**10)
    load(learner, model, holder)
    step(learner, 0)
    assert learner.copies()[0] == 1
    assert "GiB are free, but 0.0 are" in learner.copies()[1]
    assert holder.held() == ("", [])
    monkeypatch.undo()
    load(learner, model, holder)
    monkeypatch.setattr(os, "memfd_create", lambda *_: (_ for _ in ()).throw(OSError("no such call")))
    step(learner, 0)
    assert "no memory for copies of the learners' state: no such call" in learner.copies()[1]
    step(learner, 1)
    assert learner._trainer.step == 2


@pytest.mark.slow
def test_what_goes_wrong_with_a_copy_does_not_end_training(
    learner: Learner, model: str, holder: CopyHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(learner, model, holder)
    step(learner, 0)

    def fails(*_: Any) -> None:
        raise RuntimeError("the device is lost")

    learner._trainer.copier.finish()
    monkeypatch.setattr(Memory, "write", fails)
    step(learner, 1)
    step(learner, 2)
    assert learner.copies() == (3, "the device is lost")
    assert holder.held()[1] == [1], "of before it went wrong"


def test_free_memory_is_the_least_of_the_machine_and_its_control_group(tmp_path: Path) -> None:
    import psutil

    machine = psutil.virtual_memory().available
    assert memory.free_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 300\n")
    assert memory.free_memory(tmp_path) == 400.0


def two_ranks(
    model: str, folder: Path, name: str, paths: list[str], begin: int, steps: int, dies_in: int = 0
) -> list[Any]:
    """What each of two ranks has trained in the end; nothing where one kills itself, which ends the other as well."""
    script = Path(__file__).parents[2] / "support" / "copied_ranks.py"
    left = [folder / f"{name}-{rank}" for rank in range(2)]
    arguments = [
        [
            sys.executable,
            str(script),
            str(rank),
            model,
            paths[rank],
            str(begin),
            str(steps),
            str(dies_in),
            str(left[rank]),
        ]
        for rank in range(2)
    ]
    root = Path(__file__).parents[3]
    with (
        subprocess.Popen(arguments[0], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=root) as first,
        subprocess.Popen(arguments[1], stdin=subprocess.PIPE, text=True, cwd=root) as second,
    ):
        try:
            assert first.stdout is not None
            second.communicate(first.stdout.readline(), timeout=200)
            assert second.returncode == (-9 if dies_in else 0)
            if dies_in:
                first.kill()
            assert first.wait(200) == (-9 if dies_in else 0)
        finally:
            first.kill()
            second.kill()
    return [] if dies_in else [pickle.loads(file.read_bytes()) for file in left]


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_in_the_middle_of_a_step_go_on_to_the_last_bit(
    model: str, tmp_path: Path
) -> None:
    undisturbed = two_ranks(model, tmp_path, "undisturbed", ["", ""], 0, 5)
    holders = [CopyHolder(), CopyHolder()]
    paths = [holder.reserve(PAGE + PLACES * 2**20) for holder in holders]
    two_ranks(model, tmp_path, "killed", paths, 0, 5, dies_in=4)
    whole = set.intersection(*(set(holder.held()[1]) for holder in holders))
    assert max(whole) in (2, 3), "of the step before, or of the one before that if its was still on its way"
    assert two_ranks(model, tmp_path, "again", paths, max(whole), 5) == undisturbed
    assert [row["counts"] for row in undisturbed] == [(5, 0), (5, 0)]
    for holder in holders:
        holder.drop()
