"""Weights over the network: from the learner rank that publishes to every process of every engine.

A process group of their own, which leaves both sides' other groups alone: NCCL between CUDA devices, gloo elsewhere.
Rank 0 sends, the others are the engines' processes. What travels is known to both sides from the
:class:`~actors.messages.WeightUpdate`, so there is nothing but tensors on the wire, many in one bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from actors.messages import ChannelTerms, TensorEntry
from actors.rendezvous import meeting


class WeightChannel:
    """One member's side of the channel. All members make theirs at once, and have it once all are connected."""

    def __init__(self, store: dist.Store, rank: int, device: str, terms: ChannelTerms) -> None:
        """Meet the others at ``store``.

        Raises:
            RendezvousFailed: naming who did not come.

        """
        self._device = torch.device(device)
        self._bucket_bytes = terms.bucket_bytes
        where = f"{terms.address}:{terms.port}"
        with meeting(store, where, "weight channel member", rank, terms.size, terms.rendezvous_timeout) as left:
            self._group = self._connected(store, rank, terms.size, timedelta(seconds=left))
        self._group._set_default_timeout(timedelta(seconds=terms.timeout))

    def _connected(self, store: dist.Store, rank: int, size: int, wait: timedelta) -> Any:
        if self._device.type == "cpu":
            return dist.ProcessGroupGloo(store, rank, size, wait)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = wait
        group: Any = dist.ProcessGroupNCCL(store, rank, size, options)
        # NCCL connects when it is first used.
        group.broadcast([torch.zeros(1, device=self._device)], dist.BroadcastOptions()).wait()
        torch.cuda.synchronize(self._device)
        return group

    def send(self, entries: Sequence[TensorEntry], tensors: Mapping[str, torch.Tensor]) -> None:
        """Broadcast ``tensors``, which may lie on another device, in the order of ``entries``."""
        for bucket in buckets(entries, self._bucket_bytes):
            flat = torch.cat([tensors[entry.name].reshape(-1) for entry in bucket])
            self._broadcast(flat.to(self._device))

    def receive(self, entries: Sequence[TensorEntry]) -> Iterator[dict[str, torch.Tensor]]:
        """Yield what rank 0 sends, a bucket at a time, on this member's device."""
        for bucket in buckets(entries, self._bucket_bytes):
            sizes = [_elements(entry) for entry in bucket]
            flat = torch.empty(sum(sizes), dtype=_dtype(bucket[0]), device=self._device)
            self._broadcast(flat)
            pieces = zip(bucket, flat.split(sizes), strict=True)
            yield {entry.name: piece.view(entry.shape) for entry, piece in pieces}

    def _broadcast(self, flat: torch.Tensor) -> None:
        self._group.broadcast([flat], dist.BroadcastOptions()).wait()


def buckets(entries: Sequence[TensorEntry], limit: int) -> Iterator[list[TensorEntry]]:
    """Consecutive entries of one data type, of at most ``limit`` bytes together unless a single one has more."""
    bucket: list[TensorEntry] = []
    held = 0
    for entry in entries:
        size = _elements(entry) * _dtype(entry).itemsize
        if bucket and (held + size > limit or entry.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(entry)
        held += size
    if bucket:
        yield bucket


def _elements(entry: TensorEntry) -> int:
    return torch.Size(entry.shape).numel()


def _dtype(entry: TensorEntry) -> torch.dtype:
    return getattr(torch, entry.dtype)
