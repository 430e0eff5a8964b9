"""Joining a cluster: which address is taken, and what is said where nothing usable answers there."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import ray
from commands import wait_until

from pipelines.job.connection import (
    Address,
    ClusterUnreachable,
    _log_what_ray_says,
    address_of,
    connect,
    host_and_port,
    refuse_long,
    refuse_unreachable,
)


@pytest.mark.parametrize(
    ("setting", "variable", "taken"),
    [
        (None, None, None),
        (None, "", None),
        ("local", "10.0.0.1:6379", None),
        ("10.0.0.2:6379", "10.0.0.1:6379", Address("10.0.0.2:6379", "cluster.address")),
        (None, " 10.0.0.1:6379 ", Address("10.0.0.1:6379", "RAY_ADDRESS")),
        (None, "local", None),
    ],
)
def test_the_setting_goes_before_the_environment(
    setting: str | None, variable: str | None, taken: Address | None
) -> None:
    assert address_of(setting, {} if variable is None else {"RAY_ADDRESS": variable}) == taken


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("head.cluster-1.local:80", ("head.cluster-1.local", 80)),
        ("[::1]:6379", ("::1", 6379)),
    ],
)
def test_forms_of_an_address(text: str, parts: tuple[str, int]) -> None:
    assert host_and_port(Address(text, "RAY_ADDRESS")) == parts


@pytest.mark.parametrize("text", ["garbage", "10.0.0.1", "10.0.0.1:", "a b:1", "h:99999", "::1:6379", "h:1/x", "h:0"])
def test_garbage_is_refused_with_where_it_came_from(text: str) -> None:
    with pytest.raises(ClusterUnreachable, match=r"\(from RAY_ADDRESS\): it is not of the form host:port"):
        host_and_port(Address(text, "RAY_ADDRESS"))


def test_ray_client_is_refused_with_what_to_give_instead() -> None:
    with pytest.raises(ClusterUnreachable, match="give host:port of the head's GCS"):
        host_and_port(Address("ray://head:10001", "cluster.address"))


class _Refuses(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """A port at which connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_dead_address_is_refused_at_once(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    with pytest.raises(ClusterUnreachable) as refused:
        refuse_unreachable(Address(f"127.0.0.1:{free}", "RAY_ADDRESS"), 600)
    assert f"'127.0.0.1:{free}' (from RAY_ADDRESS): Connection refused" in str(refused.value)
    assert "unset RAY_ADDRESS" in str(refused.value)


def test_a_name_that_does_not_resolve_is_refused() -> None:
    with pytest.raises(ClusterUnreachable, match=r"'no-such-host\.invalid:6379' \(from cluster\.address\): "):
        refuse_unreachable(Address("no-such-host.invalid:6379", "cluster.address"), 20)


@pytest.mark.slow
def test_a_silent_listener_is_given_the_time_and_no_more(port: int) -> None:
    with pytest.raises(ClusterUnreachable, match=r"did not answer as Ray's GCS within 3 s \(cluster.ready_timeout\)"):
        refuse_unreachable(Address(f"127.0.0.1:{port}", "cluster.address"), 3)


@pytest.mark.slow
def test_another_server_is_no_cluster() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ClusterUnreachable, match="did not answer as Ray's GCS within 3 s"):
            refuse_unreachable(Address(f"127.0.0.1:{server.server_port}", "cluster.address"), 3)
        server.shutdown()


def test_auto_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``RAY_TMPDIR`` is where Ray notes the cluster a machine is part of."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path)[:30] if len(str(tmp_path)) > 30 else str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", _none_found)
    with pytest.raises(ClusterUnreachable, match=r"'auto' \(from cluster.address\): no Ray cluster is running"):
        connect("auto", 5)


def _none_found(address: str) -> None:
    raise ConnectionError("Could not find any running Ray instance")


def test_a_folder_too_long_for_a_socket_is_refused() -> None:
    refuse_long("/tmp", "x" * 70, "TMPDIR")
    refuse_long("/" + "t" * 35, "x" * 70, "TMPDIR")
    with pytest.raises(ClusterUnreachable, match=r"too long a path for sockets \(37 bytes, at most 36\): set TMPDIR"):
        refuse_long("/" + "t" * 36, "x" * 70, "TMPDIR")


SLOW = "The current node timed out during startup. The GCS may have become overloaded."


class Starting:
    """Ray's ``init``, which leaves a process each time that it fails."""

    def __init__(self, *errors: str) -> None:
        self.errors = list(errors)
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **_: object) -> None:
        if self.errors:
            code = "import time; time.sleep(600)"
            left = subprocess.Popen([sys.executable, "-c", code, "site-packages/ray/raylet"])
            self.left.append(left)
            # For a moment after its start Linux has no command line of a process yet; Ray's are half a minute old.
            wait_until(lambda: bool(psutil.Process(left.pid).cmdline()), 30, "its command line")
            raise Exception(self.errors.pop(0))

    def ended(self) -> list[int]:
        return [process.wait(timeout=30) for process in self.left]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "errors"), [(0.0, [SLOW] * 4), (600.0, ["No space left."])])
def test_a_cluster_of_its_own_that_does_not_start_is_said(
    seconds: float, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = Starting(*errors)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", starting)
    with pytest.raises(ClusterUnreachable, match=rf"own did not start: {errors[0][:20]}.* less busy"):
        connect(None, seconds)
    assert starting.ended() == [-9] * len(errors)


@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_a_node_that_is_slow_to_start_has_another_in_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """Also where one takes longer than a laptop's ``cluster.ready_timeout``."""
    starting = Starting(SLOW, SLOW)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", starting)
    connect(None, seconds)
    assert starting.ended() == [-9, -9]
    assert caplog.text.count("another is started") == 2


def test_what_rays_own_processes_say_is_in_the_log_and_not_in_what_a_command_prints(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    _log_what_ray_says()
    with caplog.at_level(logging.INFO):
        said = {"lines": ["Raylet is terminated.", "    [state-dump]"], "pid": "raylet", "is_err": False}
        worker.print_to_stdstream(said, ignore_prefix=False)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == ["Ray says: Raylet is terminated.\n    [state-dump]"]
