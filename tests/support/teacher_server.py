"""A local OpenAI-compatible server that answers, or misbehaves, as a test says.

Run as a script it serves the built-in family's own teacher on a free port, writes the port to a file, and logs the key
of every request it has answered: for tests that kill the client.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

MODEL = "teacher-x"


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is, instead of a completion."""
    message: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the message, in a stream of a first piece before those of the text."""
    events: Sequence[Any] = ()
    """Further events of a stream, before its last piece."""
    done: bool = True
    """End a stream with `[DONE]`."""
    model: str = MODEL
    finish_reason: str | None = "stop"
    choices: bool = True
    usage: bool = True
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed."""
    hang: bool = False
    """Answer nothing until the server is closed."""


Script = Callable[[dict[str, Any], int], Reply]
"""From a request's body and how often this very request has been seen, from 1, to the reply."""


def sent_text(body: Mapping[str, Any]) -> str:
    """The last user message of a request."""
    return body["messages"][-1]["content"]


class TeacherServer:
    """A server on a free port of this machine. Use as a context manager."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.closing = threading.Event()
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = owner.take(body, {name.lower(): value for name, value in self.headers.items()})
                try:
                    owner.send(self, body, reply)
                finally:
                    owner.leave()

            def log_message(self, *arguments: Any) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        """Note a request and ask the script."""
        with self._lock:
            key = json.dumps({name: body[name] for name in ("messages", "seed") if name in body}, sort_keys=True)
            self._seen[key] = count = self._seen.get(key, 0) + 1
            self.bodies.append(body)
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return self.script(body, count)

    def leave(self) -> None:
        """A request has ended."""
        with self._lock:
            self.in_flight -= 1

    def send(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], reply: Reply) -> None:
        """Act out a reply."""
        if reply.hang:
            self.closing.wait(60)
            handler.close_connection = True
            return
        data = reply.body if reply.body is not None else completion(body, reply)
        stream = body.get("stream") and reply.body is None and reply.status == 200
        handler.send_response(reply.status)
        form = "text/event-stream" if stream else "application/json"
        for name, value in {"Content-Type": form, "Content-Length": str(len(data)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[: reply.cut_after])
        if reply.cut_after is not None:
            handler.wfile.flush()
            handler.close_connection = True


def completion(body: Mapping[str, Any], reply: Reply) -> bytes:
    """A whole answer, as one object or as events."""
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.text or "no", "code": None}}).encode()
    prompt_tokens = sum(len(message["content"]) for message in body["messages"]) // 4
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(reply.text.split()), "total_tokens": 0}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    base = {"id": "c", "created": 1, "model": reply.model}
    if not body.get("stream"):
        message = {"role": "assistant", "content": reply.text, **reply.message}
        choices = [{"index": 0, "message": message, "finish_reason": reply.finish_reason}] if reply.choices else []
        return json.dumps(
            {**base, "object": "chat.completion", "choices": choices, "usage": usage if reply.usage else None}
        ).encode()
    done = ["[DONE]"] if reply.done else []
    return "".join(f"data: {event}\n\n" for event in [*map(json.dumps, _chunks(base, reply, usage)), *done]).encode()


def _chunks(base: dict[str, Any], reply: Reply, usage: dict[str, int]) -> Iterator[dict[str, Any]]:
    base = {**base, "object": "chat.completion.chunk"}
    if reply.choices:
        if reply.message:
            yield {**base, "choices": [{"index": 0, "delta": dict(reply.message), "finish_reason": None}]}
        for piece in [reply.text[start : start + 40] for start in range(0, len(reply.text), 40)]:
            yield {**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        yield from reply.events
        yield {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]}
    if reply.usage:
        yield {**base, "choices": [], "usage": usage}


def tiny_teacher(pairs: Sequence[Any]) -> Callable[[str], str]:
    """The built-in family's own teacher behind a prompt's text, right about every pair except each third one, until it
    is told the verdict."""
    from pipelines.data.prompts import load_template, render
    from pipelines.data.tiny_tasks import teacher_chain

    template = load_template("tiny")
    known = {
        render(pair, order, template)[-1]["content"]: (number, pair, label)
        for number, pair in enumerate(pairs)
        for order, label in (("chosen_first", "A"), ("chosen_second", "B"))
    }

    def answer(text: str) -> str:
        request = next(prompt for prompt in known if text == prompt or text.startswith(prompt + "\n"))
        number, pair, label = known[request]
        chain = teacher_chain(pair, label, pair.id)
        if number % 3 == 0 and text == request:
            other = "B" if label == "A" else "A"
            return re.sub(r"<answer>.*</answer>", f"<answer>[[{other}]]</answer>", chain)
        return chain

    return answer


def main(port_file: Path, log_file: Path, pair_count: int) -> None:
    """Serve until killed."""
    from pipelines.data.tiny_tasks import generate_items

    answer = tiny_teacher(generate_items(0, {"distill": pair_count})["distill"])
    log = log_file.open("a")
    with TeacherServer(lambda body, count: Reply(answer(sent_text(body)))) as server:
        plain = server.send

        def send_and_log(handler: BaseHTTPRequestHandler, body: dict[str, Any], reply: Reply) -> None:
            plain(handler, body, reply)
            log.write(handler.headers["Idempotency-Key"] + "\n")
            log.flush()

        server.send = send_and_log  # type: ignore[method-assign]
        partial = port_file.with_suffix(".part")
        partial.write_text(server.url)
        partial.rename(port_file)
        threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
