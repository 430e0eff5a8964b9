"""Two hosts on one machine: network namespaces joined by a cable, whose hostname resolves to loopback as on Debian.

Run as a script it is one of two members that form the learners' group and a weight channel, without Ray: rank 0 prints
where it waits and the other reads it; each prints what it has received.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Ray knows its nodes by their addresses on the whole machine: another run of these tests has others.
ADDRESSES = tuple(f"10.213.{os.getpid() % 256}.{host}" for host in (1, 2))


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


class NoNamespaces(RuntimeError):
    """This machine does not let us make network namespaces; says why."""


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces with :data:`ADDRESSES`; what runs there begins with ``ip netns exec NAME``."""
    if shutil.which("ip") is None:
        raise NoNamespaces("iproute2 is not installed")
    if os.geteuid() != 0:
        raise NoNamespaces("network namespaces need root")
    names = tuple(f"judges-{os.getpid()}-{index}" for index in range(2))
    hosts = [Path("/etc/netns") / name for name in names]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ends = [("netns", name, "name", cable(name)) for name in names]
            ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"`{' '.join(error.cmd)}` was refused: {error.stderr.strip()}") from error
        for index, name in enumerate(names):
            ip("-n", name, "address", "add", f"{ADDRESSES[index]}/24", "dev", cable(name))
            ip("-n", name, "link", "set", "lo", "up")
            plug(name, ADDRESSES[1 - index])
            hosts[index].mkdir(parents=True)
            (hosts[index] / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
        yield names[0], names[1]
    finally:
        for name, folder in zip(names, hosts, strict=True):
            ip("netns", "delete", name, check=False)
            shutil.rmtree(folder, ignore_errors=True)


def cable(name: str) -> str:
    """A host's end of the cable, which is its interface."""
    return f"judge{name[-1]}"


def plug(name: str, other: str) -> None:
    """Put the cable into a host, whose other end is at the address ``other``."""
    ip("-n", name, "link", "set", cable(name), "up")
    # Ray takes the address that leads outside for its node's.
    ip("-n", name, "route", "add", "default", "via", other)


def unplug(name: str) -> None:
    """Pull the cable out: neither end is told of anything."""
    ip("-n", name, "link", "set", cable(name), "down")


def on(name: str, command: Sequence[str]) -> list[str]:
    """The command, on one of the hosts."""
    return ["ip", "netns", "exec", name, *command]


def _member(rank: int) -> None:
    import torch
    import torch.distributed as dist
    from small_settings import small_learner

    from actors.learner.actor import Learner
    from actors.messages import ChannelTerms
    from actors.rendezvous import join_store
    from actors.weights.channel import WeightChannel

    learner = Learner(rank, 2, small_learner())
    places = [(learner.rendezvous() or ("", 0)), (learner.open_channel() if rank == 0 else ("", 0))]
    if rank == 0:
        print(*places[0], *places[1], flush=True)
    else:
        words = sys.stdin.readline().split()
        places = [(words[0], int(words[1])), (words[2], int(words[3]))]
    learner.join(*places[0])
    total = torch.ones(1) * (rank + 1)
    dist.all_reduce(total)
    terms = ChannelTerms(*places[1], 2, 64, 60.0, 60.0)
    weights = torch.arange(100.0)
    if rank == 0:
        learner.join_channel(terms)
        learner._publisher.publish([("weights", weights)], 1, None, sends=True)
        learner.send()
    else:
        channel = WeightChannel(join_store(*places[1], 60.0, "member 1"), 1, "cpu", terms)
        [[(_, weights)]] = channel.receive()
        [[(_, again)]] = channel.receive()
        assert torch.equal(again, weights)
    print(os.environ["GLOO_SOCKET_IFNAME"], total.item(), weights.sum().item(), flush=True)
    dist.barrier()


if __name__ == "__main__":
    _member(int(sys.argv[1]))
