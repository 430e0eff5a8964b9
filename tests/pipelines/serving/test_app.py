"""The HTTP side of the server, with scripted engines in place of real ones."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from scripted_app import LIMITS, PAIR, QWEN, client, refused
from scripted_engines import RULE, ScriptedEngines, longer

from actors.deadlines import ActorFailed
from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from pipelines.data.tokens import ChatTokenizer


def test_a_comparison_has_both_orders_and_a_reason() -> None:
    answer = client().post("/v1/compare", json=PAIR).json()
    assert (answer["winner"], answer["score"], answer["consistent"]) == ("a", 1.0, True)
    assert answer["verdicts"] == {"a_first": "a", "b_first": "a"}
    assert answer["rationale"]["text"] == "<answer>[[A]]</answer>"
    assert answer["usage"]["completion_tokens"] == 6


def test_a_request_says_orders_and_votes() -> None:
    engines = ScriptedEngines(QWEN, longer)
    answer = (
        client(engines).post("/v1/compare", json={**PAIR, "orders": "b_first", "votes": 3, "temperature": 1}).json()
    )
    assert answer["consistent"] is None
    assert len(answer["votes"]) == len(engines.asked) == 3


def test_a_conversation_is_a_question() -> None:
    turns = [{"role": "user", "content": "q"}]
    pair = {key: value for key, value in PAIR.items() if key != "question"}
    assert client().post("/v1/compare", json={**pair, "messages": turns}).json()["winner"] == "a"


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({**PAIR, "extra": 1}, "invalid_request", "extra: no such field"),
        ({**PAIR, "response_a": 5}, "invalid_request", "valid string"),
        ({**PAIR, "response_a": None}, "invalid_request", "valid string"),
        ({"question": "q", "response_a": "x"}, "invalid_request", "required"),
        ({**PAIR, "messages": [{"role": "user", "content": "q"}]}, "invalid_request", "either"),
        ({"response_a": "x", "response_b": "y"}, "invalid_request", "either"),
        ({**PAIR, "response_a": "short"}, "invalid_request", "so neither is better"),
        ({**PAIR, "temperature": "0.5"}, "invalid_request", "temperature: Input should be a valid number"),
        ({**PAIR, "temperature": True}, "invalid_request", "temperature: Input should be a valid number"),
        ({**PAIR, "votes": 10**30, "temperature": 1.0}, "too_many_votes", "at most 4"),
        (
            {"messages": [{"role": "tool", "content": "q"}]} | {k: PAIR[k] for k in ("response_a", "response_b")},
            "invalid_request",
            "messages.0.role",
        ),
        ({**PAIR, "response_a": " "}, "invalid_request", "empty"),
        ({**PAIR, "question": ""}, "invalid_request", "empty"),
        ({**PAIR, "votes": 0}, "invalid_request", "greater than or equal to 1"),
        ({**PAIR, "votes": 5, "temperature": 1.0}, "too_many_votes", "at most 4"),
        ({**PAIR, "votes": 2}, "equal_votes", "set `temperature`"),
        ({**PAIR, "orders": "c_first"}, "invalid_request", "both"),
        ({**PAIR, "temperature": 9}, "invalid_request", "less than or equal to 2"),
        ({**PAIR, "response_a": "long " * 5000}, "request_too_large", "at most 20000"),
        ([1], "invalid_request", "the body must be a JSON object"),
    ],
)
def test_what_cannot_be_compared_is_refused(body: Any, code: str, said: str) -> None:
    status = 413 if code == "request_too_large" else 422
    message = refused(client().post("/v1/compare", json=body), status, code)
    assert said in message
    assert "row" not in message, "there are none here"


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 422, "the body is no JSON: Expecting property name"),
        (b"\xff\xfe{}", 422, "the body is no JSON"),
        (b'{"question": "\xff"}', 400, "the body is no JSON: not UTF-8"),
        (b"[" * 50_000, 413, "at most 20000"),
        (b"[" * 15_000, 400, "the body is no JSON: nested too deeply"),
        (b'{"votes": ' + b"9" * 5000 + b"}", 400, "the body is no JSON: Exceeds the limit (4300 digits)"),
        (b"", 422, "the body is empty: it must be a JSON object"),
        (b'{"question": "\\ud800", "response_a": "x", "response_b": "y"}', 422, "half of a surrogate pair: repair it"),
        (b'{"\\ud800": 1}', 422, "unicode"),
        (b'{"question": "q", "response_a": "x", "response_b": "y", "temperature": NaN}', 422, "temperature"),
    ],
)
def test_what_is_no_json_text_is_refused(content: bytes, status: int, said: str) -> None:
    http = client()
    response = http.post("/v1/compare", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    assert http.get("/health").json()["in_flight"] == 0


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_json_that_is_not_said_to_be_json_is_answered_with_the_header(kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = client().post("/v1/compare", content=json.dumps(PAIR).encode(), headers=headers)
    assert "Content-Type: application/json" in refused(response, 422, "invalid_request")


def test_a_field_of_several_types_is_named_by_its_place() -> None:
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    for content, place, said in (
        (5, "prompt.0.content", "Input should be a valid string"),
        (image, "prompt.0.content.0.type", "Input should be 'text'"),
    ):
        turns = [{"role": "user", "content": content}]
        response = client().post("/v1/reward", json={"prompt": turns, "responses": ["x", "y"]})
        assert f"{place}: {said}" in refused(response, 422, "invalid_request")
        assert response.json()["error"]["param"] == place


@pytest.mark.parametrize("method", ["circular", "swiss"])
def test_more_rounds_than_there_are_pairs_end_when_all_have_met(method: str) -> None:
    body = {"question": "q", "responses": ["x", "yy", "zzz"], "method": method, "rounds": 10**30}
    answer = client().post("/v1/rank", json=body).json()
    assert (answer["ranking"], answer["calls"]) == ([2, 1, 0], 3)


def test_other_routes_and_methods_are_refused_in_the_same_form() -> None:
    refused(client().get("/v1/nothing"), 404, "invalid_request")
    wrong = client().get("/v1/compare")
    refused(wrong, 405, "invalid_request")
    assert wrong.headers["allow"] == "POST"


def test_a_body_of_no_stated_length_is_refused() -> None:
    def parts() -> Any:
        yield b"{}"

    refused(client().post("/v1/compare", content=parts()), 411, "length_required")


def test_a_prompt_that_is_too_long_is_the_clients_fault() -> None:
    response = client(rule=replace(RULE, max_prompt_tokens=20)).post("/v1/compare", json=PAIR)
    refused(response, 422, "prompt_too_long")


def test_an_engine_that_fails_is_no_verdict() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: None if "\nA short" in text else "<answer>[[A]]</answer>")
    response = client(engines).post("/v1/compare", json=PAIR)
    refused(response, 503, "engine_error")
    assert response.headers["retry-after"] == "1"
    refused(client(engines).post("/v1/reward", json={"prompt": "q", "responses": ["short", "x"]}), 503, "engine_error")


def test_engines_that_died_are_said() -> None:
    class Dead:
        async def generate(self, prompts: Any, sampling: Any) -> AsyncIterator[list[Trace]]:
            raise ActorFailed("rollout worker 0 has died")
            yield []

        async def unfinished(self) -> int:
            raise ActorFailed("rollout worker 0 has died")

    assert "worker 0" in refused(client(Dead()).post("/v1/compare", json=PAIR), 503, "engine_unavailable")
    refused(client(Dead()).get("/health"), 503, "engine_unavailable")


def test_keys() -> None:
    guarded = client(keys=("one-key", "zweiter Schlüssel".replace(" ", "-")))
    for authorization in (None, "Bearer wrong", "Bearer ", "Basic one-key", "one-key"):
        headers = {} if authorization is None else {"authorization": authorization}
        refused(guarded.post("/v1/compare", json=PAIR, headers=headers), 401, "invalid_api_key")
        refused(guarded.get("/v1/models", headers=headers), 401, "invalid_api_key")
    assert guarded.post("/v1/compare", json=PAIR, headers={"authorization": "Bearer one-key"}).status_code == 200
    assert guarded.get("/health").status_code == 200


class Held:
    """Engines that write nothing before they are let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        self._inner = ScriptedEngines(QWEN, longer)

    async def unfinished(self) -> int:
        return 2

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        self.asked.set()
        await asyncio.to_thread(self.let.wait)
        async for finished in self._inner.generate(prompts, sampling):
            yield finished


def test_requests_above_those_in_flight_are_refused_and_the_first_is_answered() -> None:
    engines = Held()
    with client(engines, limits=replace(LIMITS, in_flight=1)) as http, ThreadPoolExecutor() as threads:
        first = threads.submit(http.post, "/v1/compare", json=PAIR)
        assert engines.asked.wait(60)
        response = http.post("/v1/compare", json=PAIR)
        refused(response, 429, "rate_limit_exceeded")
        assert response.headers["retry-after"] == "1"
        health = {"status": "ok", "model": "judge", "replica": 0, "in_flight": 1, "unfinished": 2}
        assert http.get("/health").json() == health
        engines.let.set()
        assert first.result().json()["winner"] == "a"
        assert http.post("/v1/compare", json=PAIR).status_code == 200


def test_a_request_ends_at_its_deadline() -> None:
    engines = Held()
    with client(engines, limits=replace(LIMITS, deadline=0.05)) as http:
        refused(http.post("/v1/compare", json=PAIR), 504, "deadline_exceeded")
        engines.let.set()


def test_rankings_and_rewards() -> None:
    responses = ["xx", "xxxx", "x", "xx"]
    ranking = client().post("/v1/rank", json={"question": "q", "responses": responses}).json()
    assert (ranking["ranking"][0], ranking["ranking"][-1]) == (1, 2)
    assert len(ranking["scores"]) == 4
    reward = client().post("/v1/reward", json={"prompt": "q", "responses": responses}).json()
    # Against two different others each: wins of one, both, none; equal responses have equal rewards.
    assert reward["rewards"] == [0.5, 1.0, 0.0, 0.5]
    refused(client().post("/v1/rank", json={"question": "q", "responses": ["x"]}), 422, "invalid_request")
    refused(client().post("/v1/rank", json={"question": "q", "responses": [*"abcdef"]}), 422, "too_many_responses")
    refused(
        client().post("/v1/rank", json={"question": "q", "responses": ["a", "b"], "method": "elo"}),
        422,
        "invalid_request",
    )
    assert client().post("/v1/reward", json={"prompt": "q", "responses": ["a", "a"]}).json()["rewards"] == [0.5, 0.5]


def test_openais_form_of_a_completion() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: f"of {len(text)}")
    body = {"model": "judge", "messages": [{"role": "user", "content": "hello"}], "user": "ignored", "max_tokens": 5}
    scripted = _Uid(engines)
    answer = client(scripted).post("/v1/chat/completions", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 3
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = client(scripted).post("/v1/chat/completions", json=streamed).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert [chunk["usage"] for chunk in chunks] == [*[None] * (len(chunks) - 1), answer["usage"]]
    *texts, last = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["delta"]["content"] for choice in texts) == answer["choices"][0]["message"]["content"]
    assert len(texts) == 2
    assert [choice["delta"].get("role") for choice in texts] == ["assistant", None]
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert len({(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    same = {**body, "messages": [{"role": "user", "content": parts}]}
    assert client(scripted).post("/v1/chat/completions", json=same).json()["choices"] == answer["choices"]
    image = {**body, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    refused(client(scripted).post("/v1/chat/completions", json=image), 422, "invalid_request")
    refused(client(scripted).post("/v1/chat/completions", json={**body, "model": "gpt"}), 404, "model_not_found")
    assert client().get("/v1/models").json()["data"][0]["id"] == "judge"


class _Uid:
    """Scripted engines read a vote's number from a uid; a completion has none."""

    def __init__(self, inner: ScriptedEngines) -> None:
        self._inner = inner

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
        return self._inner.generate([replace(prompt, uid=f"{prompt.uid}/0") for prompt in prompts], sampling)

    async def watch(self, prompts: Sequence[Prompt], sampling: Sampling) -> Any:
        numbered = [replace(prompt, uid=f"{prompt.uid}/0") for prompt in prompts]
        async for news in self._inner.watch(numbered, sampling):
            yield [replace(item, prompt_uid=item.prompt_uid.removesuffix("/0")) for item in news]


def test_a_conversation_that_cannot_be_completed_is_refused_and_null_is_what_is_not_set() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: "fine")
    http = client(_Uid(engines))

    def asked(content: str, **more: Any) -> Any:
        body = {"model": "judge", "messages": [{"role": "user", "content": content}], **more}
        return http.post("/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"})

    assert "surrogate" in refused(asked("\ud800"), 422, "invalid_request")
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stream", "max_tokens", "seed", "stop", "stream_options"))
    assert asked("q", **nulls).json()["choices"][0]["message"]["content"] == "fine"


def test_metrics_count_by_route_and_status() -> None:
    http = client()
    http.post("/v1/compare", json=PAIR)
    http.post("/v1/compare", json={})
    text = http.get("/metrics").text
    assert 'judge_requests_total{route="/v1/compare",status="200"} 1.0' in text
    assert 'judge_requests_total{route="/v1/compare",status="422"} 1.0' in text
    assert 'judge_tokens_total{kind="completion"} 6.0' in text


def test_strangers_cannot_add_series_to_the_metrics() -> None:
    http = client(keys=["key"])
    for number in range(3):
        assert http.get(f"/v1/random-{number}").status_code == 401
        assert http.post(f"/v1/random-{number}", content=b"x" * 30_000).status_code == 401
    text = http.get("/metrics").text
    assert 'judge_requests_total{route="other",status="401"} 6.0' in text
    assert "random" not in text


def test_a_defect_is_an_error_object_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def generate(self, prompts: Any, sampling: Any) -> AsyncIterator[list[Trace]]:
            raise KeyError("ours")
            yield []

    http = client(Broken())
    assert "its log" in refused(http.post("/v1/compare", json=PAIR), 500, "internal_error")
    assert "KeyError" in caplog.text
    assert 'judge_requests_total{route="/v1/compare",status="500"} 1.0' in http.get("/metrics").text


def test_a_conversation_as_openais_clients_write_it() -> None:
    parts = [{"type": "text", "text": "which "}, {"type": "text", "text": "one?"}]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "which one?"}]
    same = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    asked = {"response_a": "x", "response_b": "y"}
    first, second = (client().post("/v1/compare", json={**asked, "messages": turns}) for turns in (plain, same))
    assert (first.status_code, first.json()) == (200, second.json())
    image = [{"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": "x"}}]}]
    for content in (image, [{"role": "user", "content": []}], [{"role": "user", "content": "q", "name": "x"}]):
        refused(client().post("/v1/compare", json={**asked, "messages": content}), 422, "invalid_request")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/compare", {"question": "word " * 200_000, "response_a": "x", "response_b": "y"}),
        ("/v1/chat/completions", {"model": "judge", "messages": [{"role": "user", "content": "word " * 200_000}]}),
    ],
)
def test_a_long_text_does_not_keep_others_waiting(path: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's loop goes on while a million characters become tokens."""
    inside = threading.Event()
    threads = set()
    encode = ChatTokenizer.ids

    def slow(self: ChatTokenizer, texts: Sequence[str]) -> list[list[int]]:
        if len(texts[0]) > 500_000:
            threads.add(threading.current_thread())
            inside.set()
            assert answered.wait(60), "another request is answered meanwhile"
        return encode(self, texts)

    answered = threading.Event()
    monkeypatch.setattr(ChatTokenizer, "ids", slow)
    with client(limits=replace(LIMITS, body_bytes=2**22)) as http, ThreadPoolExecutor(1) as others:
        long = others.submit(http.post, path, json=body)
        assert inside.wait(60)
        assert http.post("/v1/compare", json=PAIR).status_code == 200
        answered.set()
        refused(long.result(timeout=60), 422, "prompt_too_long")
    assert len(threads) == 1
