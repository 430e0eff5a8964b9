"""What an endpoint refuses before anything is sent, and what it never shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from asking import QUICK, ask
from teacher_server import Reply

from actors.redaction import KeyRefused
from pipelines.endpoints.endpoint import Endpoint
from pipelines.endpoints.failures import TeacherError
from pipelines.endpoints.teachers import NamedTeacher

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def open_at(url: str | None, **settings: str) -> Endpoint:
    return Endpoint(NamedTeacher("chains.first", replace(QUICK, base_url=url, **settings)))


def test_white_space_around_the_key_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " sk-123456\n")
    _, server = ask(lambda body, seen: Reply("x"), tmp_path / "j.jsonl", count=1)
    assert server.headers[0]["authorization"] == "Bearer sk-123456"


@pytest.mark.parametrize("key", ["sk-12\n3456", "sk-1\u00e923456"])
def test_a_key_that_cannot_be_sent_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(KeyRefused, match="variable OPENAI_API_KEY holds no usable key"):
        open_at("http://127.0.0.1:9/v1")


def test_a_server_that_quotes_the_key_does_not_get_it_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_CODE", "sk-1234567890")
    settings = replace(QUICK, key_variable="MY_CODE", attempts=1)
    quoting = Reply(status=400, text="x" * 290 + " sk-1234567890 is odd")
    asked, _ = ask(lambda body, seen: quoting, tmp_path / "j.jsonl", settings, count=1)
    (failure,) = asked.failures.values()
    # Replaced before it is shortened, so that no half of it is left.
    assert "sk-" not in failure.detail
    assert failure.detail.startswith("HTTP 400: ")
    with pytest.raises(TeacherError) as caught:
        ask(lambda body, seen: Reply(status=401, text="bad key sk-1234567890"), tmp_path / "j.jsonl", settings)
    assert "bad key ***. The key is read from the environment variable MY_CODE" in str(caught.value)


def test_a_password_in_the_address_is_not_shown(tmp_path: Path) -> None:
    def authority(url: str) -> str:
        return url.replace("http://", "http://me:hunter-22@")

    with pytest.raises(TeacherError) as caught:
        ask(lambda body, seen: Reply(status=403, text="no hunter-22"), tmp_path / "j.jsonl", QUICK, address=authority)
    assert "hunter-22" not in str(caught.value)
    assert "at http://***@127.0.0.1" in str(caught.value)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy"])
def test_a_socks_proxy_without_its_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "socks5://me:hunter-22@127.0.0.1:9")
    with pytest.raises(TeacherError) as caught:
        open_at("http://127.0.0.1:9/v1")
    assert f"chains.first: the environment variable {name.upper()}" in str(caught.value)
    assert "pip install socksio" in str(caught.value)
    assert "hunter-22" not in str(caught.value)


def test_a_proxy_of_no_known_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://127.0.0.1:9")
    with pytest.raises(TeacherError, match=r"no connection can be opened .*\(set: HTTPS_PROXY\)"):
        open_at("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http:/host/v1",
        "http://host:99999/v1",
        "http://[bad/v1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TeacherError, match=r"chains\.first\.base_url=.* is no address: write it as http"):
        open_at(url)


@pytest.mark.parametrize("url", ["http://h\u200b/v1", "http://ho\x01st/v1"])
def test_an_address_the_client_refuses_is_one_line(url: str) -> None:
    with pytest.raises(TeacherError, match="check base_url"):
        open_at(url)
