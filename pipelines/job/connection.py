"""Connect to the Ray cluster that is named, or start one: whatever is in the way is said at once, and what to do."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from actors.causes import one_line
from actors.errors import UserError
from actors.local_ray import end_with_ray

log = logging.getLogger(__name__)
# A unix socket's path has 108 bytes, of which the last is 0.
_LONGEST_SOCKET = 107
# What Ray and vLLM add to their folder of temporary files, at its longest.
_RAY_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_ENGINE_SOCKET = "00000000-0000-0000-0000-000000000000"
_SLOW = "timed out during startup"
_TRIES = 4
"""At least, of a node that is slow to start: one takes as long as the whole `cluster.ready_timeout` of a laptop."""
_PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"


class ClusterUnreachable(UserError, ConnectionError):
    """There is no usable Ray cluster at an address, or none can be started; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """Which cluster to join."""

    text: str
    origin: str
    """Where the address was taken from: ``cluster.address`` or ``RAY_ADDRESS``."""

    def unusable(self, why: str) -> ClusterUnreachable:
        """The error of an address that cannot be used."""
        alone = "unset RAY_ADDRESS" if self.origin == "RAY_ADDRESS" else "set cluster.address=local"
        return ClusterUnreachable(
            f"no Ray cluster can be joined at {self.text!r} (from {self.origin}): {why}. Start that cluster "
            f"(`ray start --head`), correct {self.origin}, or {alone} for a cluster of this run's own"
        )


def address_of(setting: str | None, environment: Mapping[str, str]) -> Address | None:
    """The cluster to join: of the setting, else of ``RAY_ADDRESS``; None where the job has a cluster of its own."""
    for text, origin in ((setting, "cluster.address"), (environment.get("RAY_ADDRESS"), "RAY_ADDRESS")):
        if text and text.strip():
            return None if text.strip() == "local" else Address(text.strip(), origin)
    return None


def host_and_port(address: Address) -> tuple[str, int]:
    """The two parts of ``host:port`` or ``[IPv6]:port``.

    Raises:
        ClusterUnreachable: the address has another form.

    """
    if "://" in address.text:
        raise address.unusable(
            "Ray Client cannot carry the streams of traces; give host:port of the head's GCS (port 6379 unless it was "
            "started with another), from a machine of the cluster, or use `make submit`"
        )
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):(\d{1,5})", address.text, re.ASCII)
    if match is None or not 0 < int(match[3]) < 65536:
        raise address.unusable("it is not of the form host:port, nor `auto`, nor `local`")
    return match[1] or match[2], int(match[3])


def connect(setting: str | None, seconds: float, ends_with_it: bool = False) -> None:
    """Join the cluster at ``cluster.address`` or ``RAY_ADDRESS``, or start one of this process alone.

    Args:
        setting: ``cluster.address``.
        seconds: for a cluster to answer or to start.
        ends_with_it: whether this process ends when Ray's own processes on this machine do: a command's, not that of
            another's program.

    Raises:
        ClusterUnreachable: within ``seconds`` there was no usable cluster.

    """
    for folder, adds, variable in (
        (os.environ.get("RAY_TMPDIR") or "/tmp", _RAY_SOCKET, "RAY_TMPDIR"),
        (tempfile.gettempdir(), _ENGINE_SOCKET, "TMPDIR"),
    ):
        refuse_long(folder, adds, variable)
    _log_what_ray_says()
    address = address_of(setting, os.environ)
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        start_own(seconds)
    else:
        _join(address, seconds)
    if ends_with_it:
        end_with_ray()


def _join(address: Address, seconds: float) -> None:
    import ray

    found = running_here(address) if address.text == "auto" else address.text
    address = Address(found, address.origin)
    refuse_unreachable(address, seconds)
    try:
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise address.unusable(one_line(str(error))) from error


def _log_what_ray_says() -> None:
    """Ray prints what its own processes report, as the last lines of a node that is gone, among what the driver prints
    to be read by others. There is no setting for it."""
    from ray._private import worker

    worker.print_to_stdstream = lambda said, ignore_prefix: log.info("Ray says: %s", "\n".join(said["lines"]))


def start_own(seconds: float, **options: Any) -> None:
    """Start a cluster for this process alone: no dashboard, no port that others could reach.

    On a busy machine a node needs longer than the half minute that Ray gives it, and then another is begun, a few times
    in any case, and as long as ``seconds`` are not over.

    Raises:
        ClusterUnreachable: it does not start.

    """
    import ray

    deadline, tries = time.monotonic() + seconds, 0
    settings: Any = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR, **options}
    while True:
        there = set(psutil.Process().children(recursive=True))
        tries += 1
        try:
            with _without_idle_processes():
                ray.init(address="local", **settings)
            return
        except Exception as error:
            # Ray has no class of its own for this, and leaves the processes of the half node.
            for process in set(psutil.Process().children(recursive=True)) - there:
                with contextlib.suppress(psutil.Error):
                    if "/ray/" in " ".join(process.cmdline()):
                        process.kill()
            if _SLOW not in str(error) or (tries >= _TRIES and time.monotonic() > deadline):
                raise ClusterUnreachable(
                    f"a Ray cluster of this run's own did not start: {one_line(str(error))} Its logs are in "
                    f"{os.environ.get('RAY_TMPDIR') or '/tmp'}/ray/session_latest/logs. Run the same command again "
                    "when the machine is less busy, or name a cluster that stands (cluster.address)"
                ) from error
            log.warning("Ray's node did not start within its half minute, for the machine is busy: another is started")


@contextlib.contextmanager
def _without_idle_processes() -> Iterator[None]:
    """A node that starts meanwhile has no autoscaler, no log monitor and no usage statistics: for one machine, whose
    actors write to files, they have nothing to do but take time to start, and memory. There is no setting for it."""
    from ray._private.node import Node

    idle = {name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor", "start_api_server")}
    for name in idle:
        setattr(Node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in idle.items():
            setattr(Node, name, method)


def refuse_long(folder: str, adds: str, variable: str) -> None:
    """Refuse a folder for temporary files in which a unix socket could not be made."""
    room = _LONGEST_SOCKET - len(adds) - 1
    if len(os.fsencode(os.path.abspath(folder))) > room:
        raise ClusterUnreachable(
            f"{folder} is too long a path for sockets ({len(os.fsencode(folder))} bytes, at most {room}): "
            f"set {variable} to a shorter one"
        )


def running_here(address: Address) -> str:
    """The cluster this machine is part of, which ``auto`` stands for."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        found = None
    if not found:
        raise address.unusable("no Ray cluster is running on this machine")
    return str(found)


def refuse_unreachable(address: Address, seconds: float) -> None:
    """Refuse an address at which no cluster answers within ``seconds``, or one whose cluster refuses us."""
    host, port = host_and_port(address)
    deadline = time.monotonic() + seconds
    try:
        socket.create_connection((host, port), timeout=max(0.1, seconds)).close()
    except OSError as error:
        raise address.unusable(error.strerror or str(error) or "no answer") from error
    # A process of its own, because Ray's client cannot be told to stop trying.
    probe = [sys.executable, "-c", _PROBE, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    try:
        done = subprocess.run(
            probe, timeout=max(0.1, deadline - time.monotonic()), capture_output=True, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise address.unusable(
            f"something listens there, but did not answer as Ray's GCS within {seconds:g} s (cluster.ready_timeout)"
        ) from error
    if "AuthenticationError" in done.stderr:
        raise address.unusable(
            "it refused this run's token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the cluster's token file"
        )
    if done.returncode:
        raise address.unusable(one_line(done.stderr))
