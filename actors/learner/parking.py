"""What a rank keeps between steps, moved into the machine's memory while engines have its device, and back.

Whole storages are moved, and the tensors stay the objects that they are: FSDP2, optimisers and views find the same
storages again, filled with the same bytes at another place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class Parking:
    """Room in the machine's memory for what is on ``device``. It is kept, since pinned memory takes long to be had."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._parked: list[tuple[torch.UntypedStorage, torch.Tensor]] = []
        self._rooms: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        """Unused, by size."""

    @property
    def parked_bytes(self) -> int:
        """What is in the machine's memory now."""
        return sum(len(room) for _, room in self._parked)

    def leave(self, tensors: Iterable[torch.Tensor]) -> None:
        """Move the tensors' storages that are on the device. They cannot be used until :meth:`come_back`."""
        found = {storage._cdata: storage for storage in _storages(tensors)}
        for storage in found.values():
            size = storage.nbytes()
            if storage.device.type != self._device or not size:
                continue
            room = self._room(size)
            room.copy_(_bytes(storage), non_blocking=True)
            self._parked.append((storage, room))
        self._wait()
        for storage, _ in self._parked:
            storage.resize_(0)
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def come_back(self) -> None:
        """Move all that was moved back to the device."""
        for storage, room in self._parked:
            storage.resize_(len(room))
            _bytes(storage).copy_(room, non_blocking=True)
        self._wait()
        while self._parked:
            _, room = self._parked.pop()
            self._rooms[len(room)].append(room)

    def _room(self, size: int) -> torch.Tensor:
        if self._rooms[size]:
            return self._rooms[size].pop()
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._device == "cuda")

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def kept(models: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[torch.Tensor]:
    """What is kept between steps: parameters, gradients, the optimisers' state. Parameters that were gathered for a
    forward pass are given up first."""
    for model in models:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        for parameter in model.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _storages(tensors: Iterable[torch.Tensor]) -> Iterator[torch.UntypedStorage]:
    """Of plain tensors, and of those that shards and quantised states are made of."""
    for tensor in tensors:
        if is_traceable_wrapper_subclass(tensor):
            inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
            yield from _storages(part for part in inner if isinstance(part, torch.Tensor))
        else:
            yield tensor.untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
