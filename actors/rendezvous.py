"""How processes meet to form a group: at a store that one of them opens, all of them or none, by a deadline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from actors.causes import one_line
from actors.errors import UserError

_REMEDY = (
    "Let every port between the nodes pass; where the interface is wrong, set GLOO_SOCKET_IFNAME and "
    "NCCL_SOCKET_IFNAME; where members only come late, raise cluster.rendezvous_timeout"
)


class RendezvousFailed(UserError, RuntimeError):
    """A group did not form in time; names the address, the port, the interface and who did not come."""


def open_store(seconds: float) -> tuple[dist.TCPStore, str, int]:
    """A store on this node at which members meet, with its address and port; whoever opens it must hold it."""
    import ray

    address = ray.util.get_node_ip_address()
    # Port 0: the store takes a free one and keeps it, so that nobody else can take it before the members meet.
    store = dist.TCPStore(address, 0, None, True, timedelta(seconds=seconds), wait_for_workers=False)
    return store, address, store.port


def join_store(address: str, port: int, seconds: float, member: str) -> dist.TCPStore:
    """The store that another member opened; ``member`` is who asks, for messages.

    Raises:
        RendezvousFailed: it was not reached within ``seconds``.

    """
    try:
        return dist.TCPStore(address, port, None, False, timedelta(seconds=seconds))
    except RuntimeError as error:
        raise RendezvousFailed(
            f"{member} on {_place()} did not reach the store at {address}:{port} within {seconds:g} s "
            f"({one_line(str(error))}). {_REMEDY}"
        ) from error


@contextmanager
def meeting(store: dist.Store, where: str, member: str, rank: int, size: int, seconds: float) -> Iterator[float]:
    """Wait until all members are at the store, then form the group inside the ``with``; yields the seconds left.

    Args:
        store: the same for all members.
        where: its address and port, for messages.
        member: what a member is called in messages, before its rank.
        rank: this member, of ``size``.
        size: how many members there are.
        seconds: for all of it.

    Raises:
        RendezvousFailed: members did not come, or came and could not connect to one another.

    """
    deadline = time.monotonic() + seconds
    places = [f"place/{other}" for other in range(size)]
    store.set(places[rank], _place())
    met = f"{member} {rank} of {size} on {_place()}, at the store {where}"
    try:
        store.wait(places, timedelta(seconds=seconds))
    except RuntimeError as error:
        missing = ", ".join(str(other) for other, place in enumerate(places) if not store.check([place]))
        raise RendezvousFailed(f"{met}: waited {seconds:g} s for {member} {missing}. {_REMEDY}") from error
    try:
        yield max(1.0, deadline - time.monotonic())
    except RuntimeError as error:
        members = ", ".join(f"{other} on {store.get(place).decode()}" for other, place in enumerate(places))
        raise RendezvousFailed(
            f"{met}: all came, but could not connect to one another within {seconds:g} s ({one_line(str(error))}): "
            f"{members}. {_REMEDY}"
        ) from error


def _place() -> str:
    """This machine, and the interface its groups use."""
    return f"{socket.gethostname()} over {os.environ.get('GLOO_SOCKET_IFNAME', 'the interface of its hostname')}"
