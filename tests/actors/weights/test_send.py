"""Written weight updates: what is read back is what was said to be sent, and only the newest stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from actors.errors import MachineFault
from actors.weights.checksums import combined_checksum, tensor_checksum
from actors.weights.send import refuse_if_full, remove_written, write_update


def named(seed: int) -> list[tuple[str, torch.Tensor]]:
    """Tensors of several types; the second is a view that is not contiguous."""
    generator = torch.Generator().manual_seed(seed)
    return [
        ("model.norm.weight", torch.randn(5, generator=generator)),
        ("model.layers.0.mlp.weight", torch.randn(4, 3, generator=generator).t()),
        ("model.embed_tokens.weight", torch.randn(7, 5, generator=generator).bfloat16()),
    ]


@pytest.fixture(params=["without a name", "named"], autouse=True)
def kind(request: pytest.FixtureRequest) -> str:
    """Files in shared memory, and those of a disk."""
    return request.param


@pytest.fixture
def tmp_path(kind: str, tmp_path: Path) -> Iterator[Path]:
    if kind == "named":
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="judges-test-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_file_holds_what_the_update_says(tmp_path: Path) -> None:
    sent = named(0)
    update = write_update(iter(sent), 7, str(tmp_path / "weights"))
    held = load_file(update.path)
    assert update.version == 7
    assert [entry.name for entry in update.tensors] == [name for name, _ in sent]
    for (name, tensor), entry in zip(sent, update.tensors, strict=True):
        assert torch.equal(held[name], tensor)
        assert entry.checksum == tensor_checksum(held[name]) == tensor_checksum(tensor)
        assert (entry.dtype, entry.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    assert update.checksum == combined_checksum(update.tensors)


def test_only_the_newest_version_stays(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.txt").write_text("not an update")
    paths = [write_update(named(version), version, str(tmp_path)).path for version in range(3)]
    files = ["weights-00000002.safetensors"] if kind == "named" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", *files]
    assert paths[2] == str(tmp_path / files[0]) if files else f"/proc/{os.getpid()}/fd/" in str(paths[2])
    assert torch.equal(load_file(paths[2])["model.norm.weight"], named(2)[0][1])


def test_an_engine_goes_on_reading_a_version_that_was_replaced(tmp_path: Path) -> None:
    first = write_update(named(0), 1, str(tmp_path))
    with safe_open(first.path, "pt") as opened:
        write_update(named(1), 2, str(tmp_path))
        assert not Path(first.path).exists()
        for name, tensor in named(0):
            assert torch.equal(opened.get_tensor(name), tensor)


def test_a_gather_that_fails_leaves_the_version_before_it(tmp_path: Path, kind: str) -> None:
    before = write_update(named(0), 1, str(tmp_path))

    def failing() -> object:
        yield named(1)[0]
        raise RuntimeError("a rank is gone")

    with pytest.raises(RuntimeError, match="a rank is gone"):
        write_update(failing(), 2, str(tmp_path))  # type: ignore[arg-type]
    assert [str(path) for path in tmp_path.iterdir()] == ([before.path] if kind == "named" else [])
    assert torch.equal(load_file(before.path)["model.norm.weight"], named(0)[0][1])


def test_what_was_written_goes_with_its_folder_unless_something_else_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not an update")
    for folder, stays in (("alone", False), ("mine", True)):
        path = write_update(named(0), 1, str(tmp_path / folder)).path
        assert path is not None
        remove_written(path)
        remove_written(path)
        assert not Path(path).exists()
        assert (tmp_path / folder).exists() is stays


def test_the_same_version_again_replaces_its_file(tmp_path: Path) -> None:
    first, second = (write_update(named(seed), 4, str(tmp_path / "weights")) for seed in (0, 1))
    assert first.checksum != second.checksum
    assert tensor_checksum(load_file(second.path)["model.norm.weight"]) == second.tensors[0].checksum
    assert len(list((tmp_path / "weights").glob("*"))) <= 1


def test_the_file_is_one_as_its_library_writes_it(tmp_path: Path) -> None:
    """Types, shapes, an empty tensor and one without dimensions, tied ones, and names that JSON escapes."""
    tied = torch.arange(6, dtype=torch.int64)
    given = {
        "b": torch.tensor([True, False, True]),
        "half": torch.randn(3, 2).half(),
        "empty": torch.zeros(0, 4),
        "number": torch.tensor(2.5, dtype=torch.float64),
        'quo"te é': torch.randn(2, 3, 4).bfloat16(),
        "tied": tied,
        "byte": torch.arange(5, dtype=torch.uint8),
    }
    path = str(write_update(given.items(), 1, str(tmp_path / "weights")).path)
    held = load_file(path)
    assert held.keys() == given.keys()
    assert all(torch.equal(held[name], tensor) and held[name].dtype == tensor.dtype for name, tensor in given.items())


_WRITER = """
import sys, torch
from actors.weights.send import write_update
update = write_update([("a", torch.arange(1000.0))], 3, sys.argv[1])
print(update.path, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_nothing_and_others_can_read_until_then(tmp_path: Path, kind: str) -> None:
    if kind == "named":
        pytest.skip("a file with a name outlives its writer; the next start of the run removes it")
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "weights")]
    root = Path(__file__).resolve().parents[3]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert writer.stdout is not None
        path = writer.stdout.readline().strip()
        assert torch.equal(load_file(path)["a"], torch.arange(1000.0))
        assert list(tmp_path.iterdir()) == []
    finally:
        writer.kill()
        writer.wait(30)
    assert not Path(path).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_this_process_does_not_hold_is_left_alone(tmp_path: Path) -> None:
    """Descriptors are numbers that are used again: only one's own is closed."""
    with (tmp_path / "mine.txt").open("w") as mine:
        remove_written(f"/proc/{os.getpid()}/fd/{mine.fileno()}")
        mine.write("still open")
        mine.flush()
    assert (tmp_path / "mine.txt").read_text() == "still open"


def test_a_folder_too_small_for_the_weights_is_refused_before_writing(tmp_path: Path) -> None:
    refuse_if_full(tmp_path, 2**30, 2**30)
    with pytest.raises(MachineFault, match=r"has 0\.06 GiB free, published weights take 14\.20 GiB: .*--shm-size"):
        refuse_if_full(tmp_path, round(14.2 * 2**30), 64 * 2**20)
