"""Keys and addresses of the server, before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pipelines.config import ConfigError
from pipelines.serving.limits import check_port, read_keys


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    file.chmod(0o600)
    assert read_keys(str(file), "0.0.0.0") == ("one", "two")
    # As editors of other systems save it.
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_keys(str(file), "0.0.0.0") == ("one", "two")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert read_keys(None, host) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "judge.example.org"])
def test_an_address_that_others_reach_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError, match=r"serve\.keys is not set"):
        read_keys(None, host)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"key\n", 0o640, "chmod 600"),
        (b"key\n", 0o604, "chmod 600"),
        (b"\n \n", 0o600, "holds no key"),
        (b"\xff\xfe", 0o600, "not UTF-8"),
        (b"one\na\0b\n", 0o600, "control characters"),
        (None, 0o600, "no such file"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used(tmp_path: Path, content: bytes | None, mode: int, said: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(str(file), "127.0.0.1")
    assert str(file) in str(caught.value)


def test_a_port_in_use_and_an_address_of_another_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"serve\.port={port}: cannot listen: another server"):
            check_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot listen"):
        check_port("192.0.2.1", 8000)
