"""Which network interface a process's groups talk over: the one that carries its Ray node's address."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence

import psutil


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """Name of the interface that carries ``address``; None where none does, as behind a translated address.

    ``interfaces`` are the addresses of each; an IPv6 address may name its zone, as in ``fe80::1%eth0``.
    """
    sought = _parsed(address)
    carrying = (name for name, carried in interfaces.items() if sought and sought in map(_parsed, carried))
    return next(carrying, None)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address without its zone; None for what is none, such as a hardware address."""
    try:
        return ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None


def use_nodes_interface() -> None:
    """Have gloo and NCCL, here and in processes started from here, use the interface of the Ray node's address.

    Left to itself gloo listens on what the hostname resolves to, which is 127.0.1.1 on Debian: no other node reaches
    it. What the user has set stays.
    """
    import ray

    carried = {name: [one.address for one in addresses] for name, addresses in psutil.net_if_addrs().items()}
    if (name := interface_of(ray.util.get_node_ip_address(), carried)) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        # NCCL takes names as prefixes, unless they begin with "=".
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")
