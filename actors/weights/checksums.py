"""Checksums of weights: one definition for the side that sends and the side that receives, wherever the tensors are."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch

from actors.messages import TensorEntry

_WORDS = 2**18
"""32-bit words that are summed with weights of their own."""
_WORDS_AT_ONCE = {"cpu": _WORDS, "cuda": 64 * _WORDS}
"""What a processor's cache holds, and what gives a device work."""
_BASE = 0x9E3779B97F4A7C15
_MODULUS = 2**64


def tensor_checksum(tensor: torch.Tensor) -> int:
    """64 bits of a tensor's bytes, in C order, computed on the tensor's own device.

    The bytes are words of 32 bits, little-endian. Every 2**18 of them are summed, each times a fixed odd number of its
    place, modulo 2**64, and the sums are the digits of a number in an odd base: so a word that is changed, moved or
    exchanged with another is seen. torch.hash_tensor is the exclusive or of all words, to which their order is nothing.

    A CRC would have to come to the processor first, which for 14B parameters in 16 bits is 28 GB per engine process.
    """
    words, tail = _words_of(tensor)
    weights = _weights(words.device)
    value, block = 0, _WORDS_AT_ONCE[words.device.type]
    for start in range(0, len(words), block):
        some = words[start : start + block]
        whole = len(some) // _WORDS * _WORDS
        sums = (some[:whole].view(-1, _WORDS) * weights).sum(1).tolist()
        if whole < len(some):
            sums.append(int((some[whole:] * weights[: len(some) - whole]).sum()))
        for one in sums:
            value = (value * _BASE + one) % _MODULUS
    return (value * _BASE + tail) % _MODULUS


def _words_of(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A tensor's bytes as words, and what is left of them."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = len(flat) // 4 * 4
    body = flat[:whole]
    # A piece of a bucket, or of a file, may begin between two words.
    if body.storage_offset() % 4 or body.data_ptr() % 4:
        body = body.clone()
    return body.view(torch.int32), int.from_bytes(bytes(flat[whole:].tolist()), "little")


@lru_cache
def _weights(device: torch.device) -> torch.Tensor:
    """An odd number of 64 bits for each place, of splitmix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        bits = np.arange(1, _WORDS + 1, dtype=np.uint64) * np.uint64(_BASE)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd = (bits ^ (bits >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(odd.view(np.int64)).to(device)


def combined_checksum(entries: Iterable[TensorEntry]) -> int:
    """CRC-32 over names, shapes, dtypes and checksums in order, so a missing or swapped tensor changes it too."""
    value = 0
    for entry in entries:
        value = zlib.crc32(f"{entry.name}|{entry.dtype}|{entry.shape}|{entry.checksum}".encode(), value)
    return value
