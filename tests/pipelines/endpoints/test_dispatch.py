"""Against a local server that misbehaves: every request is answered in the end, or one clear error says why not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import QUICK, ask, echo, first_time, requests_for
from teacher_server import MODEL, Reply, TeacherServer, sent_text

from pipelines.config import Teacher
from pipelines.endpoints.dispatch import Asked, Dispatcher
from pipelines.endpoints.endpoint import Endpoint, same_model
from pipelines.endpoints.failures import TeacherError
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.limits import Budget
from pipelines.endpoints.requests import build_request
from pipelines.endpoints.teachers import NamedTeacher

TROUBLE: dict[str, tuple[Reply, str]] = {
    "429": (Reply(status=429, headers={"Retry-After": "0.01"}), "rate limited"),
    "500": (Reply(status=500), "server error"),
    "cut": (Reply("word " * 50, cut_after=100), "connection"),
    "cut before the first byte": (Reply("word", cut_after=0), "connection"),
    "an end by the server": (Reply("half an answer", finish_reason="abort"), "server error"),
    "an error with status 200": (Reply(body=b'{"error": {"code": 429, "message": "slow down"}}'), "rate limited"),
    "nothing": (Reply(""), "empty answer"),
    "no choices": (Reply(choices=False), "empty answer"),
    "not JSON": (Reply(body=b"{oops"), "broken answer"),
    "HTML": (Reply(body=b"<html>welcome</html>"), "broken answer"),
    "other JSON": (Reply(body=b'{"hello": [1]}'), "broken answer"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_passes(name: str, stream: bool, tmp_path: Path) -> None:
    bad, cause = TROUBLE[name]
    asked, server = ask(first_time(bad), tmp_path / "j.jsonl", replace(QUICK, stream=stream))
    assert sorted(answer.text for answer in asked.answers.values()) == [f"answer to question {n}" for n in range(6)]
    assert not asked.failures
    assert set(asked.repeated) - {"timeout"} <= {cause}
    assert sum(asked.repeated.values()) >= 6
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.answers == asked.answers
    assert server.most_in_flight <= 3
    assert all("error" not in body for body in server.bodies)


@pytest.mark.slow
def test_a_hang_is_given_up_and_asked_again(tmp_path: Path) -> None:
    hang_once = first_time(Reply(hang=True))
    asked, _ = ask(
        lambda body, seen: hang_once(body, seen) if sent_text(body) == "question 1" else echo(body),
        tmp_path / "j.jsonl",
    )
    assert len(asked.answers) == 6
    assert asked.repeated["timeout"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (Reply(status=401), ["key refused", "HTTP 401", "environment variable OPENAI_API_KEY"]),
        (Reply(status=404), ["no such model or address", "chains.first.model and chains.first.base_url"]),
        (
            Reply("x", model="teacher-x-mini"),
            ["asked for model 'teacher-x'", "answers as 'teacher-x-mini'", "answers_as="],
        ),
        (Reply(status=500), ["4 requests in a row failed", "server error: HTTP 500", "run the same command again"]),
        (
            Reply(status=400, text="unknown field"),
            ["4 requests in a row failed", "refused: HTTP 400: ", "unknown field"],
        ),
        (Reply(status=429, headers={"Retry-After": "7200"}), ["asks to wait 7,200 s", "chains.first.longest_wait"]),
        (
            Reply(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}'),
            ["no credit: HTTP 429: ", "pay"],
        ),
    ],
)
def test_what_cannot_pass_ends_with_one_clear_error(reply: Reply, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as caught:
        ask(lambda body, seen: reply, tmp_path / "j.jsonl", replace(QUICK, attempts=2))
    assert str(caught.value).startswith("chains.first")
    for part in parts:
        assert part in str(caught.value)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    teacher = NamedTeacher("chains.first", replace(QUICK, base_url="http://127.0.0.1:9/v1", attempts=2))

    async def run(journal: Journal) -> None:
        async with Endpoint(teacher) as client:
            await Dispatcher(client, teacher, journal, Budget(0, 0.0)).ask(requests_for(6), lambda outcome: None)

    with Journal(tmp_path / "j.jsonl") as journal:
        running = run(journal)
        with pytest.raises(TeacherError, match=r"chains\.first \(teacher-x at http://127\.0\.0\.1:9/v1\).*connection"):
            asyncio.run(running)


def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(TeacherError, match=r"variable MY_KEY holds no key: .*chains\.first\.base_url"):
        Endpoint(NamedTeacher("chains.first", replace(QUICK, key_variable="MY_KEY")))


def test_single_refusals_are_counted_and_the_others_answered(tmp_path: Path) -> None:
    asked, server = ask(
        lambda body, seen: Reply(status=400) if sent_text(body) in ("question 1", "question 4") else echo(body),
        tmp_path / "j.jsonl",
    )
    assert len(asked.answers) == 4
    assert [failure.cause for failure in asked.failures.values()] == ["refused", "refused"]
    assert len(server.bodies) == 6


def test_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    settings = replace(
        QUICK, key_variable="MY_KEY", extra_body={"top_k": 5}, top_p=None, limit_field="max_completion_tokens"
    )
    asked, server = ask(lambda body, seen: echo(body), tmp_path / "j.jsonl", settings, count=1)
    (body,), (headers,), (answer,) = server.bodies, server.headers, asked.answers.values()
    assert body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "question 0"}],
        "max_completion_tokens": 100,
        "temperature": 0.7,
        "seed": requests_for(1)[0].seed,
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert headers["authorization"] == "Bearer secret-1"
    assert headers["idempotency-key"] == answer.key
    assert "secret-1" not in (tmp_path / "j.jsonl").read_text()
    assert (answer.prompt_tokens, answer.completion_tokens, answer.estimated) == (2, 4, False)


def test_tokens_and_cost_without_usage_are_estimated(tmp_path: Path) -> None:
    settings = replace(QUICK, input_price=2.0, output_price=30.0)
    asked, _ = ask(lambda body, seen: Reply("x" * 30, usage=False), tmp_path / "j.jsonl", settings, count=1)
    (answer,) = asked.answers.values()
    assert (answer.prompt_tokens, answer.completion_tokens, answer.estimated) == (4, 11, True)
    assert answer.cost == pytest.approx((4 * 2 + 11 * 30) / 1e6)


def test_a_budget_stops_cleanly_and_is_not_exceeded(tmp_path: Path) -> None:
    # An answer takes 6 tokens; the worst a request can take is 4 + 100.
    path = tmp_path / "j.jsonl"
    budget = Budget(120, 0.0)
    asked, server = ask(lambda body, seen: echo(body), path, budget=budget)
    assert asked.out_of_budget
    assert len(asked.answers) == len(server.bodies) == 3
    assert server.most_in_flight == 1
    assert budget.spent_tokens == 18
    asked, server = ask(lambda body, seen: echo(body), path, budget=Budget(10_000, 0.0, spent_tokens=18))
    assert not asked.out_of_budget
    assert len(server.bodies) == 3


def test_a_budget_learns_what_an_endpoint_makes_of_a_prompt(tmp_path: Path) -> None:
    """Two tokens a byte, six times what is assumed: only the first wave is admitted on the wrong estimate."""

    def script(body: dict[str, Any], seen: int) -> Reply:
        usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        return Reply(body=json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode())

    budget = Budget(130, 0.0)
    settings = replace(QUICK, stream=False, concurrency=1)
    asked, _ = ask(script, tmp_path / "j.jsonl", settings, budget=budget)
    assert asked.out_of_budget
    # 104, then 21 + 121 > 130.
    assert len(asked.answers) == 1


@pytest.mark.slow
def test_tokens_a_minute_and_a_pause_for_all_by_a_clock_of_its_own(tmp_path: Path) -> None:
    now, sent = [0.0], []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    def script(body: dict[str, Any], seen: int) -> Reply:
        sent.append(now[0])
        return Reply(status=429, headers={"Retry-After": "30"}) if len(sent) == 3 else echo(body)

    settings = replace(QUICK, concurrency=1, requests_per_minute=60, timeout=30.0)
    with TeacherServer(script) as server, Journal(tmp_path / "j.jsonl") as journal:
        teacher = NamedTeacher("chains.first", replace(settings, base_url=server.url))

        async def run() -> Asked:
            async with Endpoint(teacher) as client:
                dispatcher = Dispatcher(client, teacher, journal, Budget(0, 0.0), lambda: now[0], sleep)
                return await dispatcher.ask(requests_for(4), lambda outcome: None)

        asked = asyncio.run(run())
    assert len(asked.answers) == 4
    assert sent[:3] == [0.0, 1.0, 2.0]
    assert 32.0 <= sent[3] <= 33.0
    assert sent[4] == sent[3] + 1.0


@pytest.mark.parametrize(
    ("wanted", "answered", "same"),
    [
        ("gpt-x", "gpt-x", True),
        ("gpt-x", "gpt-x-2025-01-01", True),
        ("gpt-x-2025-01-01", "gpt-x", True),
        ("vendor/gpt-x", "GPT-x", True),
        ("gpt-x", "gpt-x:latest", True),
        ("gpt-x", "gpt-x-mini", False),
        ("gpt-x", "gpt-y", False),
        ("/models/judge", "judge", True),
    ],
)
def test_names_of_one_model(wanted: str, answered: str, same: bool) -> None:
    assert same_model(wanted, answered) is same


def test_the_key_depends_on_what_decides_the_answer_and_on_nothing_else() -> None:
    def key(settings: Teacher = QUICK, text: str = "q", uid: str = "p", round: int = 0, sample: int = 0) -> str:
        return build_request(settings, [{"role": "user", "content": text}], uid, round, sample, 7).key

    changes: list[Callable[[], str]] = [
        lambda: key(replace(QUICK, model="other")),
        lambda: key(replace(QUICK, temperature=0.1)),
        lambda: key(replace(QUICK, extra_body={"top_k": 1})),
        lambda: key(text="r"),
        lambda: key(uid="o"),
        lambda: key(round=1),
        lambda: key(sample=1),
    ]
    assert len({key(), *(change() for change in changes)}) == len(changes) + 1
    assert key(replace(QUICK, base_url="http://elsewhere", concurrency=9, timeout=3.0, input_price=1.0)) == key()
