"""What stands around Ray Serve's proxy: too much is refused, what is lost is to be asked again."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from families import FAMILIES
from scripted_engines import ScriptedEngines
from served import app_of, listening
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from pipelines.serving import proxy
from pipelines.serving.limits import Slots
from pipelines.serving.metrics import Metrics
from pipelines.serving.proxy import JUDGING, Answering, Shedding, environment, middlewares


def ask(application: Any, path: str = "/v1/compare") -> httpx.Response:
    with listening(Answering(application, Metrics())) as address:
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


@pytest.mark.slow
def test_what_is_too_much_is_not_passed_on() -> None:
    slots, passed = Slots(1), []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])
        await JSONResponse({"taken": slots.taken})(scope, receive, send)

    metrics = Metrics()
    with listening(Shedding(application, slots, metrics)) as address:
        with httpx.Client() as http:
            # As many at once as there are slots, one after the other, are never too many.
            assert [http.post(f"{address}/v1/compare", json={}).json() for _ in range(50)] == [{"taken": 1}] * 50
        with slots.slot():
            reply = httpx.post(f"{address}/v1/compare", content=b"x" * 200_000)
            assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
            assert reply.json()["error"]["code"] == "rate_limit_exceeded"
            # What costs nothing is answered all the same.
            for path in ("/health", "/metrics", "/v1/models"):
                assert httpx.get(address + path).status_code == 200
            assert httpx.post(f"{address}/v1/anything", json={}).status_code == 429
        assert httpx.post(f"{address}/v1/compare", json={}).status_code == 200
    assert passed == [*["/v1/compare"] * 50, "/health", "/metrics", "/v1/models", "/v1/compare"]
    assert slots.taken == 0
    text = metrics.text().decode()
    assert 'judge_requests_total{route="/v1/compare",status="429"} 1.0' in text
    assert 'judge_requests_total{route="other",status="429"} 1.0' in text


def test_what_the_proxy_answers_for_a_replica_is_counted() -> None:
    metrics = Metrics()
    with listening(Answering(_nothing, metrics)) as address:
        assert httpx.post(f"{address}/v1/rank").status_code == 503
    assert 'judge_requests_total{route="/v1/rank",status="503"} 1.0' in metrics.text().decode()


def test_routes_that_the_proxy_counts_are_those_that_judge() -> None:
    app = app_of(ScriptedEngines(FAMILIES["qwen2_5"](), lambda text, vote: ""))
    assert {route.path for route in app.routes if "POST" in getattr(route, "methods", ())} == set(JUDGING)


@pytest.mark.slow
def test_a_slot_is_free_again_when_a_request_fails() -> None:
    slots = Slots(1)

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a defect")

    with listening(Shedding(fails, slots, Metrics())) as address:
        assert [httpx.post(f"{address}/v1/compare").status_code for _ in range(2)] == [500, 500]
    assert slots.taken == 0


def test_the_proxy_is_told_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "Metrics", str)
    for name, value in environment(24, "/run/logs/metrics").items():
        monkeypatch.setenv(name, value)
    shedding, answering = middlewares()
    assert shedding.kwargs["slots"].most == 24
    assert (shedding.cls, answering.cls) == (Shedding, Answering)
