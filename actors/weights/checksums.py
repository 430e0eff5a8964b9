"""Checksums of weights: one definition for the side that sends and the side that receives."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch

from actors.messages import TensorEntry


def tensor_checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of a tensor's bytes, in C order; equal bytes give equal checksums on every machine of one endianness."""
    flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return zlib.crc32(flat.numpy().data)


def combined_checksum(entries: Iterable[TensorEntry]) -> int:
    """CRC-32 over names, shapes, dtypes and checksums in order, so a missing or swapped tensor changes it too."""
    value = 0
    for entry in entries:
        value = zlib.crc32(f"{entry.name}|{entry.dtype}|{entry.shape}|{entry.checksum}".encode(), value)
    return value
