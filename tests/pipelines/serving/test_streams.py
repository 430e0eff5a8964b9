"""Answers while they are written, and what becomes of work whose client has gone."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from scripted_app import LIMITS, QWEN, scripted_app
from scripted_engines import ScriptedEngines, longer
from served import listening

from actors.deadlines import ActorFailed
from actors.messages import Added

PAIR = {"question": "q", "response_a": "a long answer", "response_b": "short", "stream": True}


def reasoned(text: str, vote: int) -> str:
    return f"<eval> the longer one, of\ncourse </eval> {longer(text)}"


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Names and values of a stream of server-sent events."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("\n\n")
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def post(engines: Any, path: str = "/v1/compare", limits: Any = LIMITS, **body: Any) -> httpx.Response:
    with TestClient(scripted_app(engines, limits=limits), raise_server_exceptions=False) as http:
        return http.post(path, json={**PAIR, **body})


@pytest.mark.parametrize("more", [{}, {"votes": 3, "temperature": 1.0}, {"orders": "b_first"}])
def test_both_orders_are_written_side_by_side_and_the_decision_ends_them(more: dict[str, Any]) -> None:
    engines = ScriptedEngines(QWEN, reasoned)
    *texts, (name, decision) = events(post(engines, **more))
    assert name == "decision"
    assert decision == post(engines, stream=False, **more).json()
    assert {name for name, _ in texts} == {"text"}
    joined: dict[tuple[str, int], str] = {}
    for _, piece in texts:
        assert set(piece) == {"order", "vote", "text"}
        joined[piece["order"], piece["vote"]] = joined.get((piece["order"], piece["vote"]), "") + piece["text"]
    assert joined == {(vote["order"], vote["number"]): vote["text"] for vote in decision["votes"]}
    orders = [piece["order"] for _, piece in texts]
    if not more:
        # In turn, not one after the other.
        assert orders[:4] in ([*("a_first", "b_first") * 2], [*("b_first", "a_first") * 2])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"response_b": PAIR["response_a"]}, 422, "invalid_request"),
        ({"votes": 9, "temperature": 1.0}, 422, "too_many_votes"),
        ({"stream": "yes"}, 422, "invalid_request"),
    ],
)
def test_what_is_refused_before_a_word_is_no_stream(body: dict[str, Any], status: int, code: str) -> None:
    response = post(ScriptedEngines(QWEN, reasoned), **body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


class Broken(ScriptedEngines):
    """Writes some words of each judgment; then ``end`` is raised, or waited for."""

    def __init__(self, end: Exception | threading.Event, words: int) -> None:
        super().__init__(QWEN, reasoned)
        self.end, self.words = end, words
        self.left = threading.Event()
        """Set when nobody waits for the rest any more."""

    async def watch(self, prompts: Any, sampling: Any) -> AsyncIterator[list[Any]]:
        inner = super().watch(prompts, sampling)
        for _ in range(self.words):
            yield await anext(inner)
        await self._end()

    async def generate(self, prompts: Any, sampling: Any) -> AsyncIterator[list[Any]]:
        if not self.words:
            await self._end()
        async for finished in super().generate(prompts, sampling):
            yield finished

    async def _end(self) -> None:
        if isinstance(self.end, Exception):
            raise self.end
        self.end.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (ActorFailed("rollout worker 0 has died"), 503, "engine_unavailable"),
        (KeyError("ours"), 500, "internal_error"),
    ],
)
def test_an_error_ends_a_stream_as_its_last_event(end: Exception, status: int, code: str) -> None:
    response = post(Broken(end, words=0))
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    *texts, (name, error) = events(post(Broken(end, words=2)))
    assert len(texts) == 4
    assert (name, error["error"]["code"]) == ("error", code)
    assert "ours" not in json.dumps(error)


def test_a_stream_ends_at_the_deadline() -> None:
    engines = Broken(threading.Event(), words=1)
    *_, (name, error) = events(post(engines, limits=replace(LIMITS, deadline=0.2)))
    assert (name, error["error"]["code"]) == ("error", "deadline_exceeded")
    assert engines.left.wait(60)


@pytest.fixture
def waiting() -> Iterator[tuple[Broken, str]]:
    """A server whose engines never come to an end, and its address; one request at a time."""
    engines = Broken(threading.Event(), words=0)
    with listening(scripted_app(engines, limits=replace(LIMITS, in_flight=1))) as address:
        yield engines, address


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/compare", {key: value for key, value in PAIR.items() if key != "stream"}),
        ("/v1/compare", PAIR),
        ("/v1/rank", {"question": "q", "responses": ["x", "y"]}),
        ("/v1/reward", {"prompt": "q", "responses": ["x", "y"]}),
        ("/v1/chat/completions", {"model": "judge", "messages": [{"role": "user", "content": "q"}]}),
        ("/v1/chat/completions", {"model": "judge", "messages": [{"role": "user", "content": "q"}], "stream": True}),
    ],
)
def test_a_client_that_goes_away_ends_its_work_and_gives_its_slot_back(
    waiting: tuple[Broken, str], path: str, body: dict[str, Any]
) -> None:
    engines, address = waiting
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    assert engines.end.wait(60)  # type: ignore[union-attr]
    assert not engines.left.is_set()
    connection.close()
    assert engines.left.wait(60)
    while httpx.get(f"{address}/health").json()["in_flight"]:
        pass
    assert f'judge_requests_total{{route="{path}",status="499"}} 1.0' in httpx.get(f"{address}/metrics").text


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [True, False])
def test_a_body_that_does_not_come_gives_its_slot_back(leaves: bool, caplog: pytest.LogCaptureFixture) -> None:
    limits = replace(LIMITS, in_flight=1, deadline=60.0 if leaves else 0.5)
    with listening(scripted_app(limits=limits)) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        connection.putrequest("POST", "/v1/compare")
        for name, value in (("content-type", "application/json"), ("content-length", "1000")):
            connection.putheader(name, value)
        connection.endheaders(b'{"question": ')
        if leaves:
            while httpx.get(f"{address}/health").json()["in_flight"] == 0:
                pass
            connection.close()
        else:
            response = connection.getresponse()
            assert (response.status, json.load(response)["error"]["code"]) == (408, "request_timeout")
        while httpx.get(f"{address}/health").json()["in_flight"]:
            pass
        assert httpx.post(f"{address}/v1/compare", json={**PAIR, "stream": False}).status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_a_client_that_leaves_a_stream_ends_its_work(waiting: tuple[Broken, str]) -> None:
    engines, address = waiting
    engines.words = 2
    with httpx.stream("POST", f"{address}/v1/compare", json=PAIR) as response:
        assert response.status_code == 200
        texts = response.iter_text()
        assert next(texts).startswith("event: text")
        assert httpx.get(f"{address}/health").json()["in_flight"] == 1, "a stream holds its slot"
        assert httpx.post(f"{address}/v1/compare", json=PAIR).status_code == 429
    assert engines.left.wait(60)
    while httpx.get(f"{address}/health").json()["in_flight"]:
        pass


def test_a_completion_of_half_a_character_has_it_in_its_last_chunk() -> None:
    """Engines hold back bytes that may still become a character."""

    class Holding(ScriptedEngines):
        async def watch(self, prompts: Any, sampling: Any) -> AsyncIterator[list[Any]]:
            async for finished in self.generate([replace(prompt, uid=f"{prompt.uid}/0") for prompt in prompts], None):
                (trace,) = finished
                uid = trace.prompt_uid.removesuffix("/0")
                yield [Added(uid, 0, trace.text[:-1])]
                yield [replace(trace, prompt_uid=uid)]

    body = {"model": "judge", "messages": [{"role": "user", "content": "q"}], "stream": True}
    with TestClient(scripted_app(Holding(QWEN, lambda text, vote: "said \ufffd"))) as client:
        lines = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    texts = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in lines[:-2]]
    assert texts == ["said ", "\ufffd", None]
