"""What stands around Ray Serve's proxy: a request whose replica is lost is one to ask again."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from served import listening
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from pipelines.serving.proxy import Answering


def ask(application: Any, path: str = "/v1/compare") -> httpx.Response:
    with listening(Answering(application)) as address:
        return httpx.get(address + path)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """As the proxy ends a request whose replica died."""


async def _cut(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"event: text\ndata: {}\n\n", "more_body": True})


def test_a_request_whose_replica_died_is_asked_again() -> None:
    reply = ask(_nothing)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert reply.json()["error"] == {
        "message": "the replica that had this request has ended: ask again",
        "type": "server_error",
        "param": None,
        "code": "replica_lost",
    }


def test_a_stream_whose_replica_died_says_so() -> None:
    reply = ask(_cut)
    *_, last, end = reply.text.split("\n\n")
    assert end == ""
    name, data = last.split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "replica_lost"


@pytest.mark.parametrize(("status", "becomes"), [(503, 503), (429, 503), (408, 504)])
def test_refusals_of_the_proxy_itself_have_the_servers_form(status: int, becomes: int) -> None:
    reply = ask(PlainTextResponse("text of Ray Serve", status))
    assert (reply.status_code, reply.json()["error"]["type"]) == (becomes, "server_error")
    assert int(reply.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("response", "path"),
    [
        (JSONResponse({"error": {"code": "rate_limit_exceeded"}}, 429, {"retry-after": "7"}), "/v1/compare"),
        (JSONResponse({"winner": "a"}), "/v1/compare"),
        (PlainTextResponse("judge_requests_total 1.0"), "/metrics"),
        (PlainTextResponse("not ready", 503), "/-/healthz"),
        (Response("event: decision\ndata: {}\n\n", media_type="text/event-stream"), "/v1/compare"),
    ],
)
def test_answers_pass_as_they_are(response: Response, path: str) -> None:
    reply = ask(response, path)
    assert (reply.status_code, reply.content) == (response.status_code, response.body)
    assert reply.headers.get("retry-after") == response.headers.get("retry-after")
