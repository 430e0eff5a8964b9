"""Where FSDP2 keeps the rows of a tensor: shards are filled with rows of whole tensors, and whole tensors gathered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a DTensor; a plain tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_rows(rows: int, rank: int, ranks: int) -> int:
    """Rows of a tensor that FSDP2 gives to ``rank``: chunks of equal size, the last ones smaller or empty."""
    chunk = -(-rows // ranks)
    return max(0, min(chunk, rows - rank * chunk))


def set_aside(model: nn.Module) -> dict[str, torch.Tensor]:
    """Take the values out of ``model``, whose parameters are then of the same shapes and types without any.

    What was loaded from safetensors is mapped, not read: a value that is set aside has cost no memory yet.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    # One that stands in two places, as a tied head, stays one.
    blanks: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            blank = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            module.register_parameter(name, blanks.setdefault(id(parameter), blank))
    return values


@torch.no_grad()
def fill(model: nn.Module, values: Mapping[str, torch.Tensor], device: str, group: Any) -> None:
    """Give this rank's shards of ``model``, which have no values yet, their rows of whole tensors, by name.

    No other rows are read. Shards are made on ``device``; what has values already stays.
    """
    without = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    for name, parameter in model.named_parameters():
        if name in without:
            value = values[name]
            shard = local(parameter)
            begin = rank * -(-len(value) // ranks)
            shard.copy_(value[begin : begin + len(shard)])


def exchange(parts: Sequence[torch.Tensor], sizes: Sequence[int], group: Any) -> list[torch.Tensor]:
    """Send flat ``parts[r]`` to rank r and receive ``sizes[r]`` elements from it, in one all-to-all."""
    received = parts[0].new_empty(sum(sizes))
    dist.all_to_all_single(received, torch.cat(list(parts)), list(sizes), [len(part) for part in parts], group=group)
    return list(received.split(list(sizes)))


def gather_whole(
    tensors: Sequence[torch.Tensor], dtype: torch.dtype, group: Any, bucket_bytes: int = 2**29
) -> Iterator[torch.Tensor]:
    """The whole of each row-sharded DTensor in ``dtype``, in order, on the ranks' device; all ranks must exhaust it.

    Shards travel together in buckets of about ``bucket_bytes``: a model of many small tensors costs few collectives,
    and a large one needs little memory besides itself.
    """
    ranks = dist.get_world_size(group)
    bucket: list[torch.Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * dtype.itemsize
        if bucket and held + size > bucket_bytes:
            yield from _gather_bucket(bucket, dtype, group, ranks)
            bucket, held = [], 0
        bucket.append(tensor)
        held += size
    if bucket:
        yield from _gather_bucket(bucket, dtype, group, ranks)


def _gather_bucket(
    tensors: Sequence[torch.Tensor], dtype: torch.dtype, group: Any, ranks: int
) -> Iterator[torch.Tensor]:
    shards = [local(tensor).detach().to(dtype) for tensor in tensors]
    if ranks == 1:
        yield from shards
        return
    sizes = [
        [shard_rows(tensor.shape[0], rank, ranks) * _row_size(tensor) for tensor in tensors] for rank in range(ranks)
    ]
    # Rank 0's share is the largest: chunks only get smaller towards the last rank.
    width = sum(sizes[0])
    mine = torch.zeros(width, dtype=dtype, device=shards[0].device)
    torch.cat([shard.flatten() for shard in shards], out=mine[: sum(shard.numel() for shard in shards)])
    gathered = torch.empty(ranks * width, dtype=dtype, device=mine.device)
    dist.all_gather_into_tensor(gathered, mine, group=group)
    pieces = [gathered[rank * width :][: sum(size)].split(size) for rank, size in enumerate(sizes)]
    for index, tensor in enumerate(tensors):
        yield torch.cat([piece[index] for piece in pieces]).view(tensor.shape)


def _row_size(tensor: torch.Tensor) -> int:
    return tensor.numel() // max(1, tensor.shape[0])
