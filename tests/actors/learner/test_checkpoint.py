"""Checkpoints: whole or absent, checked before use, exact on the same ranks, resharded on others."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.files import clean_leftovers
from actors.learner import checkpoint, manifest
from actors.learner.checkpoint import begin_checkpoint, load_checkpoint, save_checkpoint
from actors.learner.manifest import (
    CheckpointError,
    checkpoint_path,
    latest,
    list_checkpoints,
    prune,
    read_manifest,
)

RANKS = 2

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


class Network(nn.Module):
    """Embedding, two layers, and a head tied to the embedding, like a small causal model."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(12, width)
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return self.head(hidden)


def build(*, sharded: bool = False, width: int = 8) -> tuple[nn.Module, torch.optim.Optimizer]:
    model: nn.Module = Network(width)
    if sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (RANKS,))
        for layer in model.layers:  # type: ignore[union-attr]
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.95))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps on random tokens, the same on every rank that has the same random numbers."""
    for _ in range(steps):
        tokens = torch.randint(0, 12, (4, 6))
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def parameters(model: nn.Module) -> dict[str, list[float]]:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().flatten().tolist()
        for name, value in model.named_parameters()
    }


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = build()
    train(model, optimizer, 2)
    for step in (10, 20):
        save_checkpoint(checkpoint_path(tmp_path, step), model, optimizer, {"step": step})
    return checkpoint_path(tmp_path, 20)


@pytest.mark.slow
def test_one_process_continues_exactly(tmp_path: Path) -> None:
    model, optimizer = build()
    train(model, optimizer, 3)
    state = {"step": 3, "loss": 0.1 + 0.2, "order": [2, 0, 1], "none": None}
    save_checkpoint(tmp_path / "step-000003", model, optimizer, state)
    train(model, optimizer, 2)
    expected, numbers = parameters(model), draws()

    again, other = build()
    assert load_checkpoint(tmp_path / "step-000003", again, other) == state
    train(again, other, 2)
    assert parameters(again) == expected
    assert draws() == numbers


def test_saving_does_not_disturb_training(tmp_path: Path) -> None:
    results = []
    for save in (False, True):
        model, optimizer = build()
        torch.manual_seed(0)
        if save:
            save_checkpoint(tmp_path / "step-000000", model, optimizer, {})
        train(model, optimizer, 1)
        if save:
            save_checkpoint(tmp_path / "step-000001", model, optimizer, {})
        train(model, optimizer, 1)
        results.append(parameters(model))
    assert results[0] == results[1]

    # An optimiser saved before its first step has counted none after loading.
    model, optimizer = build()
    load_checkpoint(tmp_path / "step-000000", model, optimizer)
    train(model, optimizer, 2)
    assert parameters(model) == results[0]


@pytest.mark.slow
def test_a_checkpoint_in_the_background_is_of_the_moment_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as one that training waits for, though it goes on; a folder with its name only when whole."""
    model, optimizer = build()
    train(model, optimizer, 2)
    save_checkpoint(checkpoint_path(tmp_path / "waited", 2), model, optimizer, {"step": 2})
    save_checkpoint(checkpoint_path(tmp_path, 1), model, optimizer, {"step": 1})

    described, go_on = threading.Event(), threading.Event()

    def describe(folder: Path, rank: int) -> Any:
        described.set()
        assert go_on.wait(60)
        return manifest.describe(folder, rank)

    monkeypatch.setattr(checkpoint, "describe", describe)
    saving = begin_checkpoint(checkpoint_path(tmp_path, 2), model, optimizer, {"step": 2}, None)
    train(model, optimizer, 3)
    expected = parameters(model)
    assert described.wait(60)
    assert latest(tmp_path) == checkpoint_path(tmp_path, 1), "a kill now would leave the one before"
    go_on.set()
    saving.result(60)
    assert latest(tmp_path) == checkpoint_path(tmp_path, 2)
    assert list(tmp_path.glob("*.partial*")) == []
    data = [(folder / "step-000002" / "__0_0.distcp").read_bytes() for folder in (tmp_path, tmp_path / "waited")]
    assert data[0] == data[1]

    again, other = build()
    assert load_checkpoint(checkpoint_path(tmp_path, 2), again, other) == {"step": 2}
    train(again, other, 3)
    assert parameters(again) == expected


def test_what_fails_in_the_background_is_raised_where_it_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = build()
    train(model, optimizer, 1)

    def describe(folder: Path, rank: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "describe", describe)
    saving = begin_checkpoint(checkpoint_path(tmp_path, 1), model, optimizer, {}, None)
    with pytest.raises(CheckpointError, match="the disk is full, so checkpoint"):
        saving.result(60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, __file__, "killed", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    finally:
        process.kill()
        process.wait(60)
    assert latest(tmp_path) == checkpoint_path(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2
    clean_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [checkpoint_path(tmp_path, 1)]
    model, optimizer = build()
    assert load_checkpoint(checkpoint_path(tmp_path, 1), model, optimizer) == {"step": 1}


def as_killed(folder: Path) -> None:
    """Write one checkpoint, begin another, and never end it."""
    model, optimizer = build()
    save_checkpoint(checkpoint_path(folder, 1), model, optimizer, {"step": 1})

    def describe(folder: Path, rank: int) -> Any:
        print("writing", flush=True)
        threading.Event().wait(120)

    checkpoint.describe = describe
    begin_checkpoint(checkpoint_path(folder, 2), model, optimizer, {"step": 2}, None).result()


@pytest.mark.slow
def test_several_optimizers_are_restored(tmp_path: Path) -> None:
    def both(model: nn.Module) -> list[torch.optim.Optimizer]:
        matrices = [value for name, value in model.named_parameters() if name.startswith("layers") and value.ndim == 2]
        rest = [value for value in model.parameters() if all(value is not matrix for matrix in matrices)]
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(rest, lr=0.01)]

    def steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], count: int) -> None:
        for _ in range(count):
            tokens = torch.randint(0, 12, (4, 6))
            nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            for one in optimizers:
                one.step()
                one.zero_grad()

    model, _ = build()
    optimizers = both(model)
    steps(model, optimizers, 2)
    save_checkpoint(tmp_path / "step-000002", model, optimizers, {})
    steps(model, optimizers, 2)
    again, _ = build()
    others = both(again)
    load_checkpoint(tmp_path / "step-000002", again, others)
    steps(again, others, 2)
    assert parameters(again) == parameters(model)


def test_manifest_lists_every_file(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert set(manifest["files"]) == {file.name for file in saved.iterdir()} - {"manifest.json"}
    assert manifest["world_size"] == 1
    assert manifest["torch"] == torch.__version__
    assert manifest["extra_state"] == {"step": 20}
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (saved / name).stat().st_size


def shard_of(folder: Path) -> Path:
    return next(folder.glob("*.distcp"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: shard_of(folder).unlink(), "__0_0.distcp is missing"),
        (lambda folder: os.truncate(shard_of(folder), 100), "__0_0.distcp has 100 bytes instead of"),
        (lambda folder: flip(shard_of(folder)), "__0_0.distcp is damaged"),
        (lambda folder: (folder / "rng.json").unlink(), "rng.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: os.truncate(folder / "manifest.json", 50), "manifest.json is damaged"),
        (lambda folder: edit(folder / "manifest.json", '"step": 20', '"step": 21'), "manifest.json is damaged"),
    ],
)
def test_damage_is_named_with_the_remedy(saved: Path, harm: Any, says: str) -> None:
    harm(saved)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved, *build())
    assert str(saved) in str(error.value)
    assert says in str(error.value)
    assert "Remove that folder to continue from step-000010" in str(error.value)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_without_an_earlier_checkpoint_the_remedy_is_the_start(saved: Path) -> None:
    prune(saved.parent, 1)
    shard_of(saved).unlink()
    with pytest.raises(CheckpointError, match="Remove that folder to begin the stage from its start"):
        load_checkpoint(saved, *build())


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint at .*step-000007"):
        load_checkpoint(tmp_path / "step-000007", *build())


def test_another_model_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit this model and optimiser.*overwrite=true"):
        load_checkpoint(saved, *build(width=16))


def test_state_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not plain JSON data"):
        save_checkpoint(tmp_path / "step-000001", *build(), {"array": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_the_same_step_is_replaced(saved: Path) -> None:
    model, optimizer = build()
    train(model, optimizer, 1)
    save_checkpoint(saved, model, optimizer, {"step": "again"})
    assert read_manifest(saved)["extra_state"] == {"step": "again"}
    assert sorted(entry.name for entry in saved.parent.iterdir()) == ["step-000010", "step-000020"]


def test_listing_takes_whole_checkpoints_in_order_of_steps(tmp_path: Path) -> None:
    for name in ("step-000009", "step-1000000", "step-000100", "step-000120.tmp-ab", "best", "step-12"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000200").write_text("a file")
    assert [step for step, _ in list_checkpoints(tmp_path)] == [9, 100, 1000000]
    assert latest(tmp_path) == tmp_path / "step-1000000"
    assert latest(tmp_path / "nowhere") is None
    assert [path.name for path in clean_leftovers(tmp_path)] == ["step-000120.tmp-ab"]
    assert not (tmp_path / "step-000120.tmp-ab").exists()


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        checkpoint_path(tmp_path, step).mkdir()
    removed = prune(tmp_path, keep_last=2, best_step=20)
    assert [path.name for path in removed] == ["step-000010", "step-000030"]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [20, 40, 50]
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="keep_last=0"):
        prune(tmp_path, keep_last=0)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two ranks in processes of their own report about saving and loading; see :func:`as_rank`."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return folder, [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(RANKS)]


def as_rank(rank: int, folder: Path) -> dict[str, Any]:
    """Save on two ranks, train on, load and train the same again; then fail to save on rank 1 alone."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    report: dict[str, Any] = {}
    model, optimizer = build(sharded=True)
    torch.manual_seed(100 + rank)
    train(model, optimizer, 2)
    save_checkpoint(folder / "step-000002", model, optimizer, {"from": rank})
    report["saved"] = parameters(model)
    train(model, optimizer, 2)
    report["expected"], report["draws"] = parameters(model), draws()

    again, other = build(sharded=True)
    report["extra"] = load_checkpoint(folder / "step-000002", again, other)
    train(again, other, 2)
    report["continued"], report["draws again"] = parameters(again), draws()

    model_before = parameters(model)
    saving = begin_checkpoint(
        folder / "background" / "step-000004", model, optimizer, {}, dist.new_group(backend="gloo")
    )
    # Other collectives than those of the writer, at the same time.
    train(model, optimizer, 3)
    saving.result(60)
    load_checkpoint(folder / "background" / "step-000004", again, other)
    report["of the moment"] = parameters(again) == model_before != parameters(model)

    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        save_checkpoint(folder / "step-000003", model, optimizer, {})
    except CheckpointError as error:
        report["failed"] = str(error)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    dist.barrier()
    report["left"] = sorted(entry.name for entry in folder.glob("step-*"))
    dist.barrier()
    dist.destroy_process_group()
    return report


@pytest.mark.slow
def test_two_ranks_continue_exactly(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, reports = ranks
    for report in reports:
        assert report["extra"] == {"from": 0}
        assert report["continued"] == report["expected"]
        assert report["draws again"] == report["draws"]
        assert report["of the moment"]
    assert reports[0]["draws"] != reports[1]["draws"]
    manifest = read_manifest(folder / "step-000002")
    assert manifest["world_size"] == RANKS
    assert {"__0_0.distcp", "__1_0.distcp", ".metadata", "rng.json"} == set(manifest["files"])


def test_two_ranks_load_on_one(
    ranks: tuple[Path, list[dict[str, Any]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, reports = ranks
    seen = []
    for _ in range(2):
        model, optimizer = build()
        with caplog.at_level("WARNING"):
            assert load_checkpoint(folder / "step-000002", model, optimizer) == {"from": 0}
        seen.append(draws())
    assert parameters(model) == reports[0]["saved"]
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}
    assert seen[0] == seen[1]
    assert "written by 2 ranks and is loaded by 1" in caplog.text


def test_a_rank_that_cannot_write_fails_all_and_leaves_nothing(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    for report in ranks[1]:
        assert "step-000003 could not be written" in report["failed"]
        assert report["left"] == ["step-000002"]


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=300k none "$0" && exec "$@"']
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mount, str(tmp_path), "true"], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a small file system")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*mount, str(tmp_path), sys.executable, __file__, "full", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert f"the disk is full, so checkpoint {tmp_path}/step-000002 was not written" in done.stdout
    assert done.stdout.splitlines()[-1] == "step-000001"


def fill(folder: Path) -> None:
    """Save a checkpoint that fits, then one that does not; print the error and what is there after it."""
    save_checkpoint(folder / "step-000001", *build(), {})
    try:
        save_checkpoint(folder / "step-000002", *build(width=4000), {})
    except CheckpointError as error:
        print(error)
    print(*sorted(entry.name for entry in folder.iterdir()))


if __name__ == "__main__" and sys.argv[1] == "full":
    fill(Path(sys.argv[2]))
elif __name__ == "__main__" and sys.argv[1] == "killed":
    as_killed(Path(sys.argv[2]))
elif __name__ == "__main__":
    (Path(sys.argv[2]) / f"report-{sys.argv[1]}.json").write_text(
        json.dumps(as_rank(int(sys.argv[1]), Path(sys.argv[2])))
    )
