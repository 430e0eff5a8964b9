"""Weights over the network: what is received is what was sent, in whichever buckets it went."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from actors.messages import ChannelTerms, TensorEntry
from actors.weights.channel import SenderGaveUp, WeightChannel, buckets
from actors.weights.send import gathered


def entry(name: str, elements: int, dtype: str = "float32") -> TensorEntry:
    """A flat tensor's entry."""
    return TensorEntry(name, dtype, (elements,), 0)


def test_buckets_keep_order_and_data_types_apart_and_stay_within_the_limit() -> None:
    entries = [entry("a", 10), entry("b", 10), entry("c", 5), entry("d", 100), entry("e", 5, "bfloat16"), entry("f", 5)]
    numbered = list(zip(entries, range(6), strict=True))
    cut = [[item.name for item, _ in bucket] for bucket in buckets(numbered, 80)]
    assert cut == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    assert [item for bucket in buckets(numbered, 10**9) for item in bucket] == numbered


@pytest.mark.parametrize("limit", [1, 1000, 2**28])
def test_every_member_receives_what_was_sent(tmp_path: Path, limit: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sent = {
        "matrix": torch.randn(30, 7, generator=generator),
        "half": torch.randn(9, generator=generator).to(torch.bfloat16),
        "scalar": torch.tensor(3.5),
        "transposed": torch.randn(4, 6, generator=generator).T,
    }
    received: dict[int, dict[str, torch.Tensor]] = {}
    told: dict[int, list[TensorEntry]] = {1: [], 2: []}

    def member(rank: int, channel: WeightChannel) -> None:
        if rank == 0:
            held, failure = gathered(sent.items(), 1, channel.send)
            assert failure is None
            told[0] = list(held.update.tensors)
            channel.send(iter(held))
            return
        received[rank] = {}
        for part in channel.receive():
            told[rank] += [entry for entry, _ in part]
            received[rank] |= {entry.name: tensor for entry, tensor in part}
        again = {entry.name: tensor for part in channel.receive() for entry, tensor in part}
        assert all(torch.equal(again[name], tensor) for name, tensor in received[rank].items())

    together(tmp_path, limit, member)
    assert told[0] == told[1] == told[2]
    for tensors in received.values():
        assert tensors.keys() == sent.keys()
        for name, tensor in sent.items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor), name
    assert len(received) == 2


def test_a_bucket_is_received_before_the_last_is_gathered(tmp_path: Path) -> None:
    """And the sender holds no more than two at a time: the third is asked for when the first is there."""
    there = [threading.Event() for _ in range(4)]
    gathered_after: list[bool] = []

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for index in range(4):
            if index > 1:
                gathered_after.append(there[index - 2].wait(30.0))
            yield str(index), torch.full((8,), float(index))

    def member(rank: int, channel: WeightChannel) -> None:
        if rank == 0:
            assert gathered(tensors(), 1, channel.send)[1] is None
            return
        for part in channel.receive():
            for entry, tensor in part:
                assert tensor.tolist() == [float(entry.name)] * 8
                if rank == 1:
                    there[int(entry.name)].set()

    together(tmp_path, 32, member)
    assert gathered_after == [True, True]


def test_what_cannot_be_gathered_ends_everybodys_waiting(tmp_path: Path) -> None:
    said: dict[int, str] = {}

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield "first", torch.ones(8)
        yield "second", torch.ones(8)
        raise ConnectionError("a rank is gone")

    def member(rank: int, channel: WeightChannel) -> None:
        try:
            if rank == 0:
                gathered(tensors(), 1, channel.send)
            else:
                list(channel.receive())
        except (ConnectionError, SenderGaveUp) as error:
            said[rank] = str(error)

    together(tmp_path, 32, member)
    assert said[0] == "a rank is gone"
    assert said[1] == said[2] == "the learner that sends weights could not gather them; its log says why"


def test_what_cannot_be_sent_is_gathered_to_its_end() -> None:
    def send(tensors: Iterator[tuple[TensorEntry, torch.Tensor]]) -> None:
        next(tensors)
        raise ConnectionError("an engine is gone")

    weights = {name: torch.full((2,), float(index)) for index, name in enumerate("abc")}
    held, failure = gathered(weights.items(), 7, send)
    assert str(failure) == "an engine is gone"
    assert [(entry.name, tensor.tolist()) for entry, tensor in held] == [
        ("a", [0.0] * 2),
        ("b", [1.0] * 2),
        ("c", [2.0] * 2),
    ]
    assert held.update == gathered(weights.items(), 7)[0].update


def together(folder: Path, limit: int, member: Callable[[int, WeightChannel], None]) -> None:
    """Three members of a channel whose buckets have ``limit`` bytes, each in a thread."""

    def meet(rank: int) -> None:
        store = dist.FileStore(str(folder / "store"), 3)
        member(rank, WeightChannel(store, rank, "cpu", ChannelTerms("here", 1, 3, limit, 30.0, 30.0)))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(meet, range(3)))
