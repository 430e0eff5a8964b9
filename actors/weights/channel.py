"""Weights over the network: from the learner rank that publishes to every process of every engine.

A process group of their own, which leaves both sides' other groups alone: NCCL between CUDA devices, gloo elsewhere.
Rank 0 sends, the others are the engines' processes. Tensors travel many in one bucket, and before each bucket what is
in it, with checksums: so the first is on its way before the last has been gathered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from actors.messages import ChannelTerms, TensorEntry
from actors.rendezvous import meeting

Value = TypeVar("Value")

_END, _GIVEN_UP = 0, -1
"""What is announced in the place of a bucket's length."""


class SenderGaveUp(RuntimeError):
    """Rank 0 could not gather what it was to send."""


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

    def send(self, tensors: Iterable[tuple[TensorEntry, torch.Tensor]]) -> None:
        """Broadcast tensors, which may lie on another device, and what each is.

        A bucket is on its way while ``tensors`` gives those of the next; two are held at a time.
        """
        under_way: list[Any] = []
        for bucket in self._gathered(tensors):
            flat = torch.cat([tensor.reshape(-1) for _, tensor in bucket]).to(self._device)
            _wait(under_way)
            under_way = [*self._announce([entry for entry, _ in bucket]), self._broadcast(flat)]
        _wait([*under_way, self._tell(_END)])

    def _gathered(self, tensors: Iterable[tuple[TensorEntry, torch.Tensor]]) -> Iterator[list[Any]]:
        try:
            yield from buckets(tensors, self._bucket_bytes)
        except Exception:
            # Nobody shall wait for the rest until the channel's deadline.
            _wait([self._tell(_GIVEN_UP)])
            raise

    def receive(self) -> Iterator[list[tuple[TensorEntry, torch.Tensor]]]:
        """Yield what rank 0 sends, a bucket at a time, on this member's device, each with what rank 0 says it is.

        Raises:
            SenderGaveUp: before it had sent all.

        """
        while entries := self._announced():
            sizes = [_elements(entry) for entry in entries]
            flat = torch.empty(sum(sizes), dtype=_dtype(entries[0]), device=self._device)
            _wait([self._broadcast(flat)])
            pieces = zip(entries, flat.split(sizes), strict=True)
            yield [(entry, piece.view(entry.shape)) for entry, piece in pieces]

    def _announce(self, entries: Sequence[TensorEntry]) -> list[Any]:
        text = json.dumps([astuple(entry) for entry in entries]).encode()
        told = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self._device)
        return [self._tell(len(text)), self._broadcast(told)]

    def _tell(self, length: int) -> Any:
        return self._broadcast(torch.tensor([length], device=self._device))

    def _announced(self) -> list[TensorEntry]:
        said = torch.empty(1, dtype=torch.int64, device=self._device)
        _wait([self._broadcast(said)])
        length = int(said.item())
        if length == _GIVEN_UP:
            raise SenderGaveUp("the learner that sends weights could not gather them; its log says why")
        if length == _END:
            return []
        told = torch.empty(length, dtype=torch.uint8, device=self._device)
        _wait([self._broadcast(told)])
        return [
            TensorEntry(name, dtype, tuple(shape), checksum)
            for name, dtype, shape, checksum in json.loads(bytes(told.tolist()))
        ]

    def _broadcast(self, flat: torch.Tensor) -> Any:
        return self._group.broadcast([flat], dist.BroadcastOptions())


def _wait(under_way: Iterable[Any]) -> None:
    for work in under_way:
        work.wait()


def buckets(tensors: Iterable[tuple[TensorEntry, Value]], limit: int) -> Iterator[list[tuple[TensorEntry, Value]]]:
    """Consecutive tensors of one data type, of at most ``limit`` bytes together unless a single one has more."""
    bucket: list[tuple[TensorEntry, Value]] = []
    held = 0
    for entry, value in tensors:
        size = _elements(entry) * _dtype(entry).itemsize
        if bucket and (held + size > limit or entry.dtype != bucket[0][0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append((entry, value))
        held += size
    if bucket:
        yield bucket


def _elements(entry: TensorEntry) -> int:
    return torch.Size(entry.shape).numel()


def _dtype(entry: TensorEntry) -> torch.dtype:
    return getattr(torch, entry.dtype)
