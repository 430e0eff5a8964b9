"""What counts as a whole answer, in every form in which endpoints say it, by the client that talks to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import QUICK, ask, echo, first_time
from teacher_server import MODEL, Reply

from pipelines.endpoints.answers import Completion, Response, whole
from pipelines.endpoints.dispatch import Asked
from pipelines.endpoints.endpoint import events
from pipelines.endpoints.failures import AttemptFailed, TeacherError
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.limits import Budget
from pipelines.endpoints.requests import Answer

ONE = replace(QUICK, attempts=1, timeout=30.0)
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def asked_once(reply: Reply, path: Path, stream: bool) -> Asked:
    """Ask one question, by one attempt, and check that a later run finds in the journal what this one has kept."""
    asked, _ = ask(lambda body, seen: reply, path / "j.jsonl", replace(ONE, stream=stream), count=1)
    with Journal(path / "j.jsonl") as journal:
        assert journal.answers == asked.answers
        assert not journal.unusable
    return asked


ENDS = {
    **dict.fromkeys(
        ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", None, "", "null"), "stop"
    ),
    **dict.fromkeys(("endTurn", "stop-sequence", "FinishReason.STOP", "FINISH_REASON_STOP", "STOP_SEQUENCE"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS", "maxTokens", "model_length"), "length"),
}


@BOTH
@pytest.mark.parametrize(("given", "kept"), ENDS.items())
def test_every_name_of_an_end_is_kept_as_one_of_two(given: str | None, kept: str, stream: bool, tmp_path: Path) -> None:
    (answer,) = asked_once(Reply("the answer", finish_reason=given), tmp_path, stream).answers.values()
    assert (answer.text, answer.finish_reason) == ("the answer", kept)


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
PARTS = [THOUGHT, {"type": "text", "text": "the "}, {"type": "text", "text": "answer"}]
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
FORMS: dict[str, Reply] = {
    "parts": Reply(message={"content": PARTS}),
    "parts of nothing": Reply(message={"content": [None, *PARTS, None]}),
    "one part": Reply(message={"content": {"type": "output_text", "text": "the answer"}}),
    "beside reasoning": Reply("the answer", message={"reasoning_content": "hm", "content": "the answer"}),
    "beside a thought": Reply("", message={"reasoning": "hm", "content": "the answer"}),
    "usage of another kind": Reply("the answer", usage=False),
}


@BOTH
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_an_answer_is_read(name: str, stream: bool, tmp_path: Path) -> None:
    reply = FORMS[name]
    # In a stream the fields of the message come in a piece of their own, before the text.
    text = "" if stream and "content" in reply.message else reply.text
    (answer,) = asked_once(replace(reply, text=text), tmp_path, stream).answers.values()
    assert answer.text == "the answer"


NO_ANSWER: dict[str, tuple[Reply, str, str]] = {
    "reasoning alone": (Reply(message={"reasoning_content": "hm"}), "only reasoning", "`content` is empty"),
    "thought alone": (Reply(message={"content": [THOUGHT]}), "only reasoning", "a part of type thinking"),
    "cut thought": (
        Reply(message={"reasoning": "hm"}, finish_reason="length"),
        "only reasoning",
        "all text stands in reasoning; it was cut before the answer began: raise max_tokens",
    ),
    "hidden thought": (Reply("", finish_reason="length"), "empty answer", "raise max_tokens"),
    "nothing": (Reply(" \n"), "empty answer", "`content` is empty"),
    "null": (Reply(message={"content": None}), "empty answer", "`content` is empty"),
    "declined": (Reply(message={"content": None, "refusal": "I cannot"}), "declined", "I cannot"),
    "filtered": (Reply("part", finish_reason="content_filter"), "ended with content_filter", "'content_filter'"),
    "tool": (Reply("", message={"tool_calls": CALL}, finish_reason="tool_calls"), "ended with tool_calls", "ends_as"),
    "other word": (Reply("the answer", finish_reason="fin"), "ended with fin", "`ends_as`"),
    "error": (Reply("part", finish_reason="error"), "server error", "'error'"),
    "surrogate": (Reply("a\ud800b"), "no valid text", "character 2 is half of a surrogate pair in its text"),
    "texts in a part": (Reply(message={"content": [{"text": ["a", "b"]}]}), "broken answer", "has no text"),
    "number": (Reply(message={"content": 7}), "broken answer", "neither text nor parts: 7"),
}


@BOTH
@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_no_answer_is_a_counted_failure_and_not_in_the_journal(name: str, stream: bool, tmp_path: Path) -> None:
    reply, cause, detail = NO_ANSWER[name]
    asked = asked_once(reply, tmp_path, stream)
    (failure,) = asked.failures.values()
    assert failure.cause == cause
    assert detail in failure.detail
    assert not (tmp_path / "j.jsonl").read_bytes()


@pytest.mark.slow
def test_what_chance_cannot_mend_is_not_paid_for_again_in_one_run(tmp_path: Path) -> None:
    reply = Reply(message={"reasoning_content": "hm"})
    asked, server = ask(lambda body, seen: reply, tmp_path / "j.jsonl", QUICK, count=2)
    assert len(asked.failures) == len(server.bodies) == 2
    with pytest.raises(
        TeacherError, match=r"in a row failed, the last with only reasoning: .*start the server without"
    ):
        ask(lambda body, seen: reply, tmp_path / "j.jsonl", QUICK)
    again, server = ask(lambda body, seen: echo(body), tmp_path / "j.jsonl", QUICK, count=2)
    assert len(again.answers) == len(server.bodies) == 2


def test_an_end_of_its_own_is_named_in_the_settings(tmp_path: Path) -> None:
    asked, _ = ask(
        lambda body, seen: Reply("x", finish_reason="fin"), tmp_path / "j.jsonl", replace(ONE, ends_as="fin")
    )
    assert {answer.finish_reason for answer in asked.answers.values()} == {"stop"}
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.answers == asked.answers


def test_a_stream_without_reason_and_done_is_cut(tmp_path: Path) -> None:
    asked = asked_once(Reply("half", finish_reason=None, done=False, usage=False), tmp_path, stream=True)
    assert [failure.cause for failure in asked.failures.values()] == ["cut answer"]
    (answer,) = asked_once(Reply("whole", done=False, usage=False), tmp_path, stream=True).answers.values()
    assert answer.text == "whole"


def test_of_several_choices_only_the_first_is_read(tmp_path: Path) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]}
    (answer,) = asked_once(Reply("one", events=[other]), tmp_path, True).answers.values()
    assert (answer.text, answer.finish_reason) == ("one", "stop")
    choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in ("one", "other")]
    for index, choice in enumerate(choices):
        choice["index"] = index
    body = json.dumps({"model": MODEL, "choices": choices}).encode()
    (answer,) = asked_once(Reply(body=body), tmp_path / "w", False).answers.values()
    assert answer.text == "one"


def test_a_character_cut_between_two_pieces_is_whole_again() -> None:
    response = Response({})
    for piece in ("a\ud83d", "\ude00b"):
        response.add({"choices": [{"index": 0, "delta": {"content": piece}}]}, "delta")
    assert response.completion(ended=True).text == "a\U0001f600b"


@pytest.mark.parametrize(
    "usage",
    [None, 3, {}, {"prompt_tokens": None, "completion_tokens": 5}, {"prompt_tokens": 0, "completion_tokens": 0}],
)
def test_usage_that_states_nothing_is_estimated(usage: Any, tmp_path: Path) -> None:
    choice = {"index": 0, "message": {"content": "x" * 30}, "finish_reason": "stop"}
    body = json.dumps({"model": None, "choices": [choice], "usage": usage}).encode()
    (answer,) = asked_once(Reply(body=body), tmp_path, stream=False).answers.values()
    assert answer.estimated
    assert answer.tokens > 0


@pytest.mark.parametrize("choices", [5, True, "text", {"0": {}}])
def test_choices_that_are_no_list_are_a_broken_answer(choices: Any, tmp_path: Path) -> None:
    (failure,) = asked_once(Reply(body=json.dumps({"choices": choices}).encode()), tmp_path, False).failures.values()
    assert failure.cause == "broken answer"


def test_a_count_that_no_request_has_is_estimated(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": 2}
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage}).encode()
    (answer,) = asked_once(Reply(body=body), tmp_path, False).answers.values()
    assert answer.estimated


@BOTH
def test_an_end_that_is_called_stop_reason_is_read(stream: bool, tmp_path: Path) -> None:
    choice = {"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}, "stop_reason": "max_tokens"}
    sent = json.dumps({"model": MODEL, "choices": [choice]}).encode()
    events = Reply(body=b"data: " + sent + b"\n\ndata: [DONE]\n\n", headers={"Content-Type": "text/event-stream"})
    (answer,) = asked_once(events if stream else Reply(body=sent), tmp_path, stream).answers.values()
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    "sign", [{}, {"type": "ping"}, {"id": "1", "object": "chat.completion.chunk"}, {"timings": {}}]
)
def test_a_sign_of_life_within_a_stream_loses_nothing(sign: dict[str, Any], tmp_path: Path) -> None:
    (answer,) = asked_once(Reply("the answer", events=[sign]), tmp_path, stream=True).answers.values()
    assert answer.text == "the answer"


@BOTH
def test_an_answer_comes_in_the_form_that_the_server_likes(stream: bool, tmp_path: Path) -> None:
    """A server may not know streams, or know nothing else."""
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    event = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    if stream:
        reply = Reply(body=json.dumps({"choices": [choice]}).encode())
    else:
        reply = Reply(body=f"data: {json.dumps(event)}\n\n".encode(), headers={"Content-Type": "text/event-stream"})
    (answer,) = asked_once(reply, tmp_path, stream).answers.values()
    assert answer.text == "x"


STATED: dict[str, tuple[Any, str, str]] = {
    "a rate": ({"code": 429, "message": "slow"}, "rate limited", "HTTP 429: slow"),
    "a rate by name": ({"type": "rate_limit_error", "message": "slow"}, "rate limited", "HTTP 429: slow"),
    "the server": ({"code": 502, "message": "down"}, "server error", "HTTP 502: down"),
    "nothing known": ({"message": "odd"}, "server error", "HTTP 500: odd"),
    "text": ("upstream is down", "server error", "HTTP 500: upstream is down"),
    "a number as text": ({"code": "503", "message": "busy"}, "server error", "HTTP 503: busy"),
    "a bad request": ({"code": "context_length_exceeded", "message": "long"}, "refused", "HTTP 400: long"),
    "what is behind": ({"code": 502, "message": "m", "metadata": {"raw": "real"}}, "server error", "m real"),
    "half a character": ({"code": 500, "message": "\ud800"}, "server error", "\\ud800"),
}
FATAL: dict[str, tuple[Any, str]] = {
    "the key": ({"code": 401, "message": "who"}, "key refused: HTTP 401: who"),
    "the key by name": ({"code": "invalid_api_key", "type": "invalid_request_error", "message": "who"}, "key refused"),
    "credit": ({"code": "insufficient_quota", "message": "pay"}, "no credit: HTTP 429: pay"),
    "credit by number": ({"code": 402, "message": "pay"}, "no credit: HTTP 402: pay"),
    "the model": ({"code": "model_not_found", "message": "which"}, "no such model or address"),
}


def said_with_200(error: Any, where: str) -> Reply:
    if where == "in a piece":
        return Reply(
            "part", events=[{"error": error, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}]
        )
    if where == "in a choice":
        return Reply("part", events=[{"choices": [{"index": 0, "delta": {}, "error": error}]}])
    return Reply(body=json.dumps({"error": error}).encode())


@pytest.mark.parametrize("where", ["alone", "in a piece", "in a choice"])
@pytest.mark.parametrize("name", STATED)
def test_an_error_with_status_200_counts_as_the_status_it_carries(name: str, where: str, tmp_path: Path) -> None:
    error, cause, detail = STATED[name]
    (failure,) = asked_once(said_with_200(error, where), tmp_path, stream=True).failures.values()
    assert failure.cause == cause
    assert detail in failure.detail


@pytest.mark.parametrize("where", ["alone", "in a piece", "in a choice"])
@pytest.mark.parametrize("name", FATAL)
def test_a_fatal_error_with_status_200_stops_the_run(name: str, where: str, tmp_path: Path) -> None:
    error, message = FATAL[name]
    with pytest.raises(TeacherError, match=message):
        asked_once(said_with_200(error, where), tmp_path, stream=True)


def test_an_error_without_a_field_of_its_own_is_one(tmp_path: Path) -> None:
    body = json.dumps({"object": "error", "message": "slow", "code": 429}).encode()
    (failure,) = asked_once(Reply(body=body), tmp_path, stream=True).failures.values()
    assert failure.cause == "rate limited"


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 422])
def test_stream_options_that_are_refused_are_left_out(status: int, tmp_path: Path) -> None:
    def script(body: Mapping[str, Any], seen: int) -> Reply:
        if "stream_options" in body:
            return Reply(status=status, text="Extra inputs are not permitted: stream_options")
        return Reply("x", usage=False)

    asked, server = ask(script, tmp_path / "j.jsonl", replace(ONE, concurrency=1))
    assert len(asked.answers) == 6
    assert all(answer.estimated and answer.attempts == 1 for answer in asked.answers.values())
    assert ["stream_options" in body for body in server.bodies] == [True] + [False] * 6


def test_a_refused_stream_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"chains\.first\.stream=false"):
        ask(lambda body, seen: Reply(status=400, text="streaming is not supported"), tmp_path / "j.jsonl", ONE)


@pytest.mark.slow
def test_rows_of_an_old_journal_that_are_no_answers_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    asked, _ = ask(lambda body, seen: echo(body), path)
    keys = sorted(asked.answers)
    old = [
        replace(asked.answers[keys[0]], text=""),
        replace(asked.answers[keys[1]], text="a\ud800"),
        replace(asked.answers[keys[2]], finish_reason="content_filter"),
        replace(asked.answers[keys[3]], finish_reason="eos"),
        replace(asked.answers[keys[4]], finish_reason="length"),
    ]
    path.write_text("".join(json.dumps({name: getattr(row, name) for name in Answer.__slots__}) + "\n" for row in old))
    with Journal(path) as journal:
        causes = {keys[0]: "empty answer", keys[1]: "no valid text", keys[2]: "ended with content_filter"}
        assert journal.unusable == causes
        assert [journal.answers[key].finish_reason for key in keys[3:5]] == ["stop", "length"]
        assert journal.tokens == sum(row.tokens for row in old)
    asked, server = ask(lambda body, seen: echo(body), path)
    assert len(server.bodies) == 4
    with Journal(path) as journal:
        assert not journal.unusable
        assert sorted(journal.answers) == keys
        # What was paid for twice was spent twice.
        assert journal.tokens == sum(row.tokens for row in [*old, *asked.answers.values()])


def test_what_is_no_answer_counts_as_spent(tmp_path: Path) -> None:
    budget = Budget(0, 0.0)
    asked, _ = ask(first_time(Reply("one two", finish_reason="error")), tmp_path / "j.jsonl", count=1, budget=budget)
    (answer,) = asked.answers.values()
    assert budget.spent_tokens == answer.tokens + 2 + 2


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_events_are_read_however_the_bytes_are_cut(size: int, end: str, mark: str) -> None:
    sent = end.join(
        [
            f"{mark}data: first",
            "",
            ": ping",
            "",
            "event: x",
            "data: {\u2028",
            "data:}",
            "",
            "id: 1",
            "",
            "data: \u00e9",
            "",
            "data: [DONE]",
        ]
    )
    raw = sent.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), size):
            yield raw[start : start + size]

    async def read() -> list[str]:
        return [data async for data in events(pieces())]

    assert asyncio.run(read()) == ["first", "{\u2028\n}", "\u00e9", "[DONE]"]


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        (" a\nb ", "a\nb"),
        ("hm</think>b", "<think>\nhm</think>b"),
        ("\nhm\n</think>\n\n<type>Chat</type>", "<think>\nhm\n</think>\n\n<type>Chat</type>"),
        ("<type>Chat</type> hm</think>b", "<think>\n<type>Chat</type> hm</think>b"),
        ("<think>hm</think>b", "<think>hm</think>b"),
        ("<think>hm</think>b</think>c", "<think>hm</think>b</think>c"),
        ("<think>hm", "<think>hm"),
        ("<eval>it wrote </think></eval>", "<eval>it wrote </think></eval>"),
    ],
)
def test_a_thought_that_the_prompt_opened_is_opened_again(text: str, chain: str) -> None:
    answer = Answer("k", "p", 0, 0, text, "stop", "m", 1, 1, False, 0.0, 0.0, 1)
    assert answer.chain == chain
    assert replace(answer, text=chain).chain == chain


def test_a_whole_completion_stays_whole() -> None:
    completion = Completion("x", "eos", "m", 1, 1)
    assert whole(whole(completion)) == whole(completion) == replace(completion, finish_reason="stop")
    with pytest.raises(AttemptFailed):
        whole(replace(completion, text=""))


def test_a_connection_that_breaks_after_the_end_loses_nothing(tmp_path: Path) -> None:
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]})
    raw = f"data: {event}\n\ndata: [DONE]\n\n".encode()
    reply = Reply(body=raw + b" " * 100, headers={"Content-Type": "text/event-stream"}, cut_after=len(raw))
    (answer,) = asked_once(reply, tmp_path, stream=True).answers.values()
    assert answer.text == "x"
