"""Weights over the network: what is received is what was sent, in whichever buckets it went."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from actors.messages import ChannelTerms, TensorEntry
from actors.weights.channel import WeightChannel, buckets
from actors.weights.send import gathered


def entry(name: str, elements: int, dtype: str = "float32") -> TensorEntry:
    """A flat tensor's entry."""
    return TensorEntry(name, dtype, (elements,), 0)


def test_buckets_keep_order_and_data_types_apart_and_stay_within_the_limit() -> None:
    entries = [entry("a", 10), entry("b", 10), entry("c", 5), entry("d", 100), entry("e", 5, "bfloat16"), entry("f", 5)]
    cut = [[item.name for item in bucket] for bucket in buckets(entries, 80)]
    assert cut == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    assert [item.name for bucket in buckets(entries, 10**9) for item in bucket] == list("abcdef")


@pytest.mark.parametrize("limit", [1, 1000, 2**28])
def test_every_member_receives_what_was_sent(tmp_path: Path, limit: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sent = {
        "matrix": torch.randn(30, 7, generator=generator),
        "half": torch.randn(9, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(3.5),
        "transposed": torch.randn(4, 6, generator=generator).T,
    }
    update, held = gathered(sent.items(), 1)
    received: dict[int, dict[str, torch.Tensor]] = {}

    def member(rank: int) -> None:
        store = dist.FileStore(str(tmp_path / "store"), 3)
        channel = WeightChannel(store, rank, "cpu", ChannelTerms("here", 1, 3, limit, 30.0, 30.0))
        if rank == 0:
            channel.send(update.tensors, held)
        else:
            received[rank] = {name: tensor for part in channel.receive(update.tensors) for name, tensor in part.items()}

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(member, range(3)))
    for tensors in received.values():
        assert tensors.keys() == sent.keys()
        for name, tensor in sent.items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor), name
    assert len(received) == 2
