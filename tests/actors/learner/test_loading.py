"""Shards are filled with a rank's own rows of a checkpoint, and are what sharding the whole model gives, bit by bit.

The process group only counts its ranks: one process is each of them in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from judge_ranks import LORA, build_model
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from actors.learner.model import _around, _read, _shard, load_judge, shard_judge
from actors.learner.sharding import fill, local, set_aside
from pipelines.speed.loading import in_own_process, write_model

SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "activation_checkpointing": False,
    "reshard_after_forward": True,
    "trainable": True,
    "offload": False,
    "lora": None,
    "seed": 3,
}


@contextmanager
def rank_of(ranks: int, rank: int) -> Iterator[DeviceMesh]:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield init_device_mesh("cpu", (ranks,))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """With a tied head, and with one of its own."""
    return {tied: build_model(tmp_path_factory.mktemp("loading") / str(tied), tied=tied) for tied in (True, False)}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "trainable": False},
        {"dtype": "bfloat16", "lora": LORA},
        {"offload": True},
        {"reshard_after_forward": False},
    ],
)
def test_shards_are_those_of_the_whole_model(models: dict[bool, str], tied: bool, changes: dict[str, Any]) -> None:
    """Three ranks: none of the numbers of rows divides by it, and some shards are smaller, or empty."""
    settings = SETTINGS | changes
    for rank in range(3):
        with rank_of(3, rank) as mesh:
            own = load_judge(models[tied], mesh, **settings)
            whole = shard_judge(_read(models[tied]), mesh, **settings)
            ours, theirs = dict(own.named_parameters()), dict(whole.named_parameters())
            assert list(ours) == list(theirs)
            for name, parameter in ours.items():
                other = theirs[name]
                assert (parameter.dtype, parameter.requires_grad) == (other.dtype, other.requires_grad)
                assert (parameter.shape, parameter.placements) == (other.shape, other.placements)  # type: ignore[attr-defined]
                assert torch.equal(local(parameter), local(other)), name
            buffers = dict(whole.named_buffers())
            assert all(torch.equal(buffer, buffers[name]) for name, buffer in own.named_buffers())
            assert (own.lm.get_output_embeddings().weight is own.lm.get_input_embeddings().weight) == tied


class Rows:
    """A tensor of which it is noted what is asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.asked: list[range] = []

    def __len__(self) -> int:
        return len(self._tensor)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.asked.append(range(*rows.indices(len(self))))
        return self._tensor[rows]


@pytest.mark.slow
def test_every_row_is_read_by_one_rank_alone(models: dict[bool, str]) -> None:
    asked: dict[str, list[int]] = {}
    for rank in range(3):
        with rank_of(3, rank) as mesh:
            judge = _around(_read(models[True]), False, True, None, 0)
            values = {name: Rows(value) for name, value in set_aside(judge).items()}
            assert all(parameter.is_meta for parameter in judge.parameters())
            _shard(judge, mesh, "float32", True, False)
            fill(judge, values, "cpu", mesh.get_group())  # type: ignore[arg-type]
            for name, value in values.items():
                (rows,) = value.asked
                asked.setdefault(name, []).extend(rows)
    sizes = {
        name: len(parameter)
        for name, parameter in _around(_read(models[True]), False, True, None, 0).named_parameters()
    }
    assert asked == {name: list(range(size)) for name, size in sizes.items()}


@pytest.mark.slow
def test_of_a_file_a_rank_looks_at_its_rows_and_holds_its_shards(tmp_path: Path) -> None:
    """41 MB in bfloat16, of which a rank of four has 20 MB in float32."""
    shape = {"vocab_size": 16_384, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 1}
    write_model(tmp_path, shape | {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True})
    seen = {side: in_own_process(tmp_path, side) for side in ("rows", "layers")}
    assert seen["rows"]["shards"] == seen["layers"]["shards"] == pytest.approx(seen["rows"]["file"] / 2, rel=0.01)
    assert seen["rows"]["read"] < 0.5 * seen["rows"]["file"] < 0.95 * seen["layers"]["read"]
    assert seen["rows"]["peak"] < seen["layers"]["peak"]
