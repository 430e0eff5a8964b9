"""Checksums of weights: of the bytes and nothing else, and of all tensors in their order."""

from __future__ import annotations

import dataclasses
import zlib

import pytest
import torch

from actors.messages import TensorEntry
from actors.weights.checksums import combined_checksum, tensor_checksum

ENTRIES = (
    TensorEntry("first", "float32", (2, 3), 11),
    TensorEntry("second", "float32", (3, 2), 12),
)


def test_checksum_is_the_crc_of_the_bytes() -> None:
    tensor = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    assert tensor_checksum(tensor) == zlib.crc32(tensor.numpy().tobytes())
    assert tensor_checksum(torch.tensor([1, 2, 3], dtype=torch.uint8)) == zlib.crc32(b"\x01\x02\x03")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_checksum_follows_values_not_layout(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    column_first = tensor.t().contiguous().t()
    assert not column_first.is_contiguous()
    assert tensor_checksum(column_first) == tensor_checksum(tensor)
    assert tensor_checksum(tensor.t()) != tensor_checksum(tensor)


def test_one_changed_bit_changes_the_checksum() -> None:
    tensor = torch.ones(1000)
    before = tensor_checksum(tensor)
    tensor.view(torch.int32)[637] ^= 1
    assert tensor_checksum(tensor) != before


def test_parameters_and_scalars_have_checksums() -> None:
    assert tensor_checksum(torch.nn.Parameter(torch.ones(4))) == tensor_checksum(torch.ones(4))
    assert tensor_checksum(torch.tensor(2.0)) == tensor_checksum(torch.tensor([2.0]))


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"dtype": "bfloat16"}, {"shape": (3, 2)}, {"checksum": 10}],
    ids=lambda c: next(iter(c)),
)
def test_combined_checksum_sees_every_field(change: dict[str, object]) -> None:
    changed = (dataclasses.replace(ENTRIES[0], **change), ENTRIES[1])  # type: ignore[arg-type]
    assert combined_checksum(changed) != combined_checksum(ENTRIES)


def test_combined_checksum_sees_order_and_what_is_missing() -> None:
    seen = {combined_checksum(entries) for entries in (ENTRIES, ENTRIES[::-1], ENTRIES[:1], ENTRIES[1:], ())}
    assert len(seen) == 5
    assert combined_checksum(iter(ENTRIES)) == combined_checksum(ENTRIES)
