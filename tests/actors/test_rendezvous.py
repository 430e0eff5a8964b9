"""Members meet or are told, within the deadline, who did not come and where they waited."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from actors.messages import ChannelTerms
from actors.rendezvous import RendezvousFailed, join_store, meeting, open_store
from actors.weights.channel import WeightChannel


@pytest.mark.slow
def test_a_member_that_does_not_come_is_named_with_address_port_and_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    opened, address, port = open_store(30.0)
    where = f"{address}:{port}"

    def arrive(rank: int) -> str:
        store = opened if rank == 0 else join_store(address, port, 30.0, f"learner rank {rank}")
        with (
            pytest.raises(RendezvousFailed) as caught,
            meeting(store, where, "learner rank", rank, 4, 0.5),
        ):
            raise AssertionError("not all have come")
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        for rank, said in zip((0, 2), pool.map(arrive, (0, 2)), strict=True):
            host = socket.gethostname()
            assert said.startswith(
                f"learner rank {rank} of 4 on {host} over eth7, at the store {where}: "
                "waited 0.5 s for learner rank 1, 3. Let every port"
            )
            assert "cluster.rendezvous_timeout" in said


@pytest.mark.slow
def test_a_store_that_is_not_reached_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # Bound, and nobody listens.
        with pytest.raises(RendezvousFailed, match=rf"learner rank 3 on .* over .* 127\.0\.0\.1:{port} within 0\.5 s"):
            join_store("127.0.0.1", port, 0.5, "learner rank 3")


def test_members_that_come_and_cannot_connect_are_named_with_their_places(tmp_path: Path) -> None:
    def arrive(rank: int) -> str:
        store = dist.FileStore(str(tmp_path / "store"), 2)
        with (
            pytest.raises(RendezvousFailed) as caught,
            meeting(store, "here:1", "learner rank", rank, 2, 20.0),
        ):
            raise RuntimeError("[gloo] connect to 127.0.1.1 refused")
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        for said in pool.map(arrive, (0, 1)):
            assert "could not connect to one another within 20 s ([gloo] connect to 127.0.1.1 refused)" in said
            assert f"0 on {socket.gethostname()} over" in said
            assert f"1 on {socket.gethostname()} over" in said


def test_a_defect_within_is_no_rendezvous_that_failed(tmp_path: Path) -> None:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    with pytest.raises(TypeError, match="mine"), meeting(store, "here:1", "learner rank", 0, 1, 20.0):
        raise TypeError("mine")


def test_the_deadline_of_meeting_is_not_that_of_sending(tmp_path: Path) -> None:
    terms = ChannelTerms("here", 1, 1, 64, rendezvous_timeout=5.0, timeout=3600.0)
    channel = WeightChannel(dist.FileStore(str(tmp_path / "store"), 1), 0, "cpu", terms)
    assert channel._group.options._timeout == timedelta(hours=1)
