"""The interface that carries an address is found by its name, and what the user has set stays."""

from __future__ import annotations

import os

import pytest

from actors import interfaces
from actors.interfaces import interface_of, use_nodes_interface

HOST = {
    "lo": ["127.0.0.1", "::1", "00:00:00:00:00:00"],
    "eth0": ["10.0.0.7", "fd00::7", "fe80::1%eth0", "02:fc:00:00:00:01"],
    "eth01": ["10.0.0.70"],
    "ib0": ["192.168.1.7", "192.168.2.7"],
    "down": [],
}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.7", "eth0"),
        ("10.0.0.70", "eth01"),
        ("192.168.2.7", "ib0"),
        ("127.0.0.1", "lo"),
        ("fd00:0:0::7", "eth0"),
        ("fe80::1", "eth0"),
        ("10.0.0.8", None),
        ("127.0.1.1", None),
        ("", None),
        ("node-7.example.org", None),
    ],
)
def test_the_interface_that_carries_the_address(address: str, name: str | None) -> None:
    assert interface_of(address, HOST) == name
    assert interface_of(address, {}) is None


VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without the two variables, now and after the test."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    return monkeypatch


def test_gloo_and_nccl_use_the_interface_of_the_nodes_address(environment: pytest.MonkeyPatch) -> None:
    environment.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    use_nodes_interface()
    assert [os.environ[variable] for variable in VARIABLES] == ["lo", "=lo"]


def test_what_the_user_has_set_stays(environment: pytest.MonkeyPatch) -> None:
    environment.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    environment.setenv("NCCL_SOCKET_IFNAME", "ib")
    use_nodes_interface()
    assert [os.environ[variable] for variable in VARIABLES] == ["lo", "ib"]


def test_an_address_that_no_interface_carries_sets_nothing(environment: pytest.MonkeyPatch) -> None:
    environment.setattr("ray.util.get_node_ip_address", lambda: "198.51.100.1")
    environment.setattr(interfaces.psutil, "net_if_addrs", dict)
    use_nodes_interface()
    assert not any(variable in os.environ for variable in VARIABLES)
