"""Written weight updates: what is read back is what was said to be sent, and only the newest stays."""

from __future__ import annotations

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


def test_only_the_newest_version_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an update")
    for version in range(3):
        update = write_update(named(version), version, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "weights-00000002.safetensors"]
    assert update.path == str(tmp_path / "weights-00000002.safetensors")


def test_an_engine_goes_on_reading_a_version_that_was_replaced(tmp_path: Path) -> None:
    first = write_update(named(0), 1, str(tmp_path))
    with safe_open(first.path, "pt") as opened:
        write_update(named(1), 2, str(tmp_path))
        assert not Path(first.path).exists()
        for name, tensor in named(0):
            assert torch.equal(opened.get_tensor(name), tensor)


def test_a_gather_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    before = write_update(named(0), 1, str(tmp_path))

    def failing() -> object:
        yield named(1)[0]
        raise RuntimeError("a rank is gone")

    with pytest.raises(RuntimeError, match="a rank is gone"):
        write_update(failing(), 2, str(tmp_path))  # type: ignore[arg-type]
    assert [str(path) for path in tmp_path.iterdir()] == [before.path]
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
    first, second = (write_update(named(seed), 4, str(tmp_path)) for seed in (0, 1))
    assert first.path == second.path
    assert first.checksum != second.checksum
    assert tensor_checksum(load_file(second.path)["model.norm.weight"]) == second.tensors[0].checksum


def test_a_folder_too_small_for_the_weights_is_refused_before_writing(tmp_path: Path) -> None:
    refuse_if_full(tmp_path, 2**30, 2**30)
    with pytest.raises(MachineFault, match=r"has 0\.06 GiB free, published weights take 14\.20 GiB: .*--shm-size"):
        refuse_if_full(tmp_path, round(14.2 * 2**30), 64 * 2**20)
