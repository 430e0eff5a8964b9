"""Checksums of weights: of the bytes and nothing else, and of all tensors in their order."""

from __future__ import annotations

import dataclasses
import itertools
import struct

import pytest
import torch

from actors.messages import TensorEntry
from actors.weights import checksums
from actors.weights.checksums import combined_checksum, tensor_checksum

ENTRIES = (
    TensorEntry("first", "float32", (2, 3), 11),
    TensorEntry("second", "float32", (3, 2), 12),
)


def by_hand(data: bytes) -> int:
    """The definition in plain integers."""
    mask, base, value = 2**64 - 1, 0x9E3779B97F4A7C15, 0

    def weight(place: int) -> int:
        bits = (place + 1) * base & mask
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & mask
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & mask
        return (bits ^ (bits >> 31)) | 1

    weights = [weight(place) for place in range(min(2**18, len(data) // 4))]
    whole = len(data) // 4 * 4
    words = struct.unpack(f"<{whole // 4}i", data[:whole])
    for start in range(0, len(words), 2**18):
        digit = sum(word * weights[place] for place, word in enumerate(words[start : start + 2**18]))
        value = value * base + digit & mask
    return value * base + int.from_bytes(data[whole:], "little") & mask


@pytest.mark.slow
@pytest.mark.parametrize("rows_on_device", [None, 2])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 1001, 4 * 2**18, 12 * 2**18 + 7])
def test_the_checksum_is_its_definition(
    count: int, rows_on_device: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    if rows_on_device is not None:
        # As a device takes it, several sums at a time.
        monkeypatch.setattr(checksums, "_WORDS_AT_ONCE", {"cpu": rows_on_device * 2**18})
    assert tensor_checksum(data) == by_hand(data.numpy().tobytes())


@pytest.mark.parametrize("offset", range(4))
def test_a_piece_that_begins_between_two_words(offset: int) -> None:
    data = torch.arange(40, dtype=torch.uint8)
    assert tensor_checksum(data[offset : offset + 30]) == tensor_checksum(data[offset : offset + 30].clone())
    halves = torch.randn(41).bfloat16()
    assert tensor_checksum(halves[offset:]) == tensor_checksum(halves[offset:].clone())


def test_what_changes_places_is_seen() -> None:
    """Also powers of two, whose bits are mostly zero, and rows of a vocabulary."""
    seen = set()
    for tensor in (
        torch.tensor([1.0, 2.0, 4.0, 0.0]),
        torch.tensor([0, 2**30, -(2**30), 2**31 - 1], dtype=torch.int32),
    ):
        orders = {tensor_checksum(tensor[list(order)]) for order in itertools.permutations(range(4))}
        assert len(orders) == 24
        seen |= orders
    assert len(seen) == 48
    rows = torch.zeros(2**11, 512)
    rows[3] = 1.0
    rows[2**10] = 2.0
    swapped = rows.clone()
    swapped[[3, 2**10]] = rows[[2**10, 3]]
    assert tensor_checksum(rows) != tensor_checksum(swapped)


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
