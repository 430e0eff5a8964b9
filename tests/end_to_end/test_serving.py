"""The server with real parts: streams, clients that go away, replicas and engines that are killed under load.

The model's weights are random and its judgments endless, so that what ends one is seen.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from commands import Runs, wait_until
from replicas import health, unfinished

from actors.processes import is_engine_core, titled
from pipelines.data.tiny_model import build_tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

PAIR = {"question": "count b in e f", "response_a": "one", "response_b": "zero"}
TOKENS = 2500
"""Of a judgment: all that it may have. Long enough that two requests are seen together on a busy machine."""
VOTES = 4
"""Of a long request, in each order."""
AT_ONCE = 6
"""Requests in flight while something is killed."""


is_replica = titled("ServeReplica:judge")


@dataclass
class Server:
    address: str
    process: subprocess.Popen[str]
    model: str

    def pids(self, kind: Callable[[psutil.Process], bool]) -> set[int]:
        """Processes of the server that are of a kind, and live."""
        found = set()
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if kind(process) and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
        return found

    def completion(self, http: httpx.Client | Any = httpx, tokens: int = 40) -> httpx.Response:
        messages = [{"role": "user", "content": "count"}]
        body = {"model": self.model, "messages": messages, "max_tokens": tokens}
        return http.post(f"{self.address}/v1/chat/completions", json=body, timeout=300)


@pytest.fixture(scope="module")
def server(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Two replicas, of which both answer."""
    model = tmp_path_factory.mktemp("serving") / "model"
    build_tiny_model(model, ["count b in e f : one", "<answer>[[A]]</answer>"] * 20, seed=0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = [f"serve.model={model}", f"serve.port={port}", "serve.replicas=2", f"model.max_response_tokens={TOKENS}"]
    process = runs.start("serve", "serving", "recipe=tiny", *settings)
    found = Server(f"http://127.0.0.1:{port}", process, str(model))

    def answers() -> bool:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{found.address}/health", timeout=60).status_code == 200
        return False

    wait_until(answers, 600, "the server")
    assert len(found.pids(is_replica)) == len(found.pids(is_engine_core)) == 2
    return found


def test_judgments_arrive_while_they_are_written(server: Server) -> None:
    def blocks(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
        for line in lines:
            if line.startswith("event: "):
                yield line.removeprefix("event: "), json.loads(next(lines).removeprefix("data: "))

    written: dict[str, str] = {"a_first": "", "b_first": ""}
    seen_early = False
    with httpx.stream("POST", f"{server.address}/v1/compare", json={**PAIR, "stream": True}, timeout=300) as response:
        for name, data in blocks(response.iter_lines()):
            if name == "decision":
                break
            assert name == "text"
            written[data["order"]] += data["text"]
            seen_early = seen_early or (all(written.values()) and unfinished(server.address))
    assert seen_early, "the engines still write when both orders have begun to be read"
    assert {vote["order"]: vote["text"] for vote in data["votes"]} == written
    assert all(vote["completion_tokens"] == TOKENS for vote in data["votes"])
    assert data == httpx.post(f"{server.address}/v1/compare", json=PAIR, timeout=300).json()


def test_openais_client_reads_a_completion_as_it_grows(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none")
    asked: Any = {"model": server.model, "messages": [{"role": "user", "content": "count"}], "max_tokens": 60}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage == whole.usage


@pytest.mark.parametrize("streamed", [False, True])
def test_who_goes_away_is_written_for_no_longer(server: Server, streamed: bool) -> None:
    """Of two requests, whichever replicas have them, one client leaves: its judgments end, and the other's do not.

    Meanwhile the engines stand still, so that nothing ends by itself.
    """
    wait_until(lambda: unfinished(server.address) == 0, 120, "idle engines")
    long = {**PAIR, "votes": VOTES, "temperature": 0.01}
    with ThreadPoolExecutor(1) as threads, socket.create_connection(_place(server)) as leaving:
        text = json.dumps({**long, "stream": streamed})
        leaving.sendall(
            f"POST /v1/compare HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}".encode()
        )
        if streamed:
            assert b"event: text" in _until(leaving, b"event: text")
        with stopped(server.pids(is_engine_core)):
            wait_until(lambda: unfinished(server.address) == 2 * VOTES, 60, "the first request")
            staying = threads.submit(httpx.post, f"{server.address}/v1/compare", json=long, timeout=600)
            wait_until(lambda: unfinished(server.address) == 4 * VOTES, 60, "both requests")
            leaving.close()
            wait_until(lambda: unfinished(server.address) == 2 * VOTES, 60, "the end of what nobody waits for")
        votes = staying.result().json()["votes"]
    assert [vote["completion_tokens"] for vote in votes] == [TOKENS] * 2 * VOTES


@contextmanager
def stopped(processes: set[int]) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _place(server: Server) -> tuple[str, int]:
    host, _, port = server.address.removeprefix("http://").partition(":")
    return host, int(port)


def _until(connection: socket.socket, wanted: bytes) -> bytes:
    received = b""
    while wanted not in received:
        received += connection.recv(65536)
    return received


@contextmanager
def load(server: Server) -> Iterator[list[httpx.Response]]:
    """Clients that ask one completion after the other while the context is open; what they were answered.
    When it opens, both replicas are in the midst of some.
    """
    answered: list[httpx.Response] = []
    enough = threading.Event()

    def client() -> None:
        with httpx.Client() as http:
            while not enough.is_set():
                answered.append(server.completion(http, tokens=500))

    def busy() -> bool:
        return sorted(replica["in_flight"] > 0 for replica in health(server.address).values()) == [True, True]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        clients = [threads.submit(client) for _ in range(AT_ONCE)]
        try:
            wait_until(busy, 120, "the load")
            yield answered
        finally:
            enough.set()
    for finished in clients:
        finished.result()


def counted(server: Server) -> Counter[int]:
    """Completions by status in the metrics; of eight scrapes, which both replicas answer, the fewest of each."""
    scrapes = [httpx.get(f"{server.address}/metrics", timeout=60).text for _ in range(8)]
    line = re.compile(r'judge_requests_total\{route="/v1/chat/completions",status="(\d+)"\} (\S+)')
    found = [Counter({int(status): int(float(count)) for status, count in line.findall(text)}) for text in scrapes]
    return functools.reduce(Counter.__and__, found)


def heals(server: Server, kind: Callable[[psutil.Process], bool], killed: int, of: int = 2) -> Callable[[], bool]:
    """Whether as many processes as before are there without the killed one, and all replicas are healthy."""
    return lambda: len(server.pids(kind) - {killed}) == of and len(health(server.address)) == of


def test_a_replica_that_is_killed_takes_only_its_own_requests_along(server: Server) -> None:
    engines = server.pids(is_engine_core)
    killed, before = min(server.pids(is_replica)), counted(server)
    with load(server) as answered:
        psutil.Process(killed).kill()
        wait_until(heals(server, is_replica, killed), 300, "another replica")
    counts = Counter(reply.status_code for reply in answered)
    # Those of the replica that was killed, and what the proxy answered for it, included; counted when they are sent.
    wait_until(lambda: counted(server) == before + counts, 60, f"metrics of {before} and {counts}")
    assert set(counts) == {200, 503}
    assert counts[503] <= AT_ONCE
    for reply in answered:
        if reply.status_code == 503:
            assert reply.headers["retry-after"] == "1"
            assert reply.json()["error"]["code"] == "replica_lost"
    # Its engine went with it, and another came.
    assert len(server.pids(is_engine_core)) == 2
    assert len(server.pids(is_engine_core) & engines) == 1
    assert {server.completion().status_code for _ in range(10)} == {200}


def test_an_engine_that_is_killed_has_its_replica_replaced(server: Server) -> None:
    replicas = server.pids(is_replica)
    killed = min(server.pids(is_engine_core))
    with load(server) as answered:
        psutil.Process(killed).kill()
        wait_until(heals(server, is_engine_core, killed), 300, "another engine")
    assert {reply.status_code for reply in answered} == {200, 503}
    assert all(int(reply.headers["retry-after"]) > 0 for reply in answered if reply.status_code == 503)
    assert len(server.pids(is_replica)) == 2
    assert len(server.pids(is_replica) & replicas) == 1
    assert {server.completion().status_code for _ in range(10)} == {200}


def test_a_judge_that_cannot_start_says_why(runs: Runs, server: Server, tmp_path: Path) -> None:
    """Half of its weights are missing: it is not tried. vLLM does not know it: what the engine says is passed on."""
    model = tmp_path / "model"
    shutil.copytree(server.model, model)
    weights, config = model / "model.safetensors", model / "config.json"
    whole, known = weights.read_bytes(), json.loads(config.read_text())
    os.truncate(weights, len(whole) // 2)
    error = runs("serve", "broken", "recipe=tiny", f"serve.model={model}", "serve.port=18437", status=1)
    assert f"{weights} is damaged" in " ".join(error.split())
    weights.write_bytes(whole)
    config.write_text(json.dumps(known | {"architectures": ["NobodysForCausalLM"]}))
    error += runs("serve", "broken", "recipe=tiny", f"serve.model={model}", "serve.port=18437", status=1)
    assert "did not start" in error
    assert "NobodysForCausalLM" in error
    assert "Traceback" not in error


def test_it_ends_without_a_trace(server: Server) -> None:
    everything = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGINT)
    out, error = server.process.communicate(timeout=120)
    assert server.process.returncode == 130, error
    assert not out.rpartition("SIGINT: no more requests are taken")[2].strip()
    # Of the call by which Serve's controller ends, Ray would say that it failed and will be tried again.
    assert "graceful_shutdown" not in out + error
    assert "Traceback" not in out + error
    _, alive = psutil.wait_procs(everything, timeout=30)
    assert not alive
    with socket.create_server(_place(server)):
        pass
