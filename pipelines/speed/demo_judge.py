"""The judge of a finished demo run, as the measures of serving, ranking and rewarding take it: alone, and served."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors.errors import UserError
from pipelines.data.schema import PreferencePair, plain_messages

_READY_SECONDS = 300.0
_IDLE_SECONDS = 1.0
"""A connection that is idle for longer is not used again: the server may be about to close it."""


class NoDemo(UserError, FileNotFoundError):
    """There is no finished run to take a judge from; says what makes one."""


@dataclass(frozen=True, slots=True)
class DemoJudge:
    """What a finished run left."""

    model: str
    pairs: Sequence[PreferencePair]
    """Held out."""
    max_model_len: int
    max_tokens: int
    """Of one judgment."""
    template: Any
    tokenizer: Any

    def prompts(self, pairs: Sequence[PreferencePair]) -> list[tuple[int, ...]]:
        """Token ids of each pair in both orders, as every judge here is asked."""
        from pipelines.judgment.judging import encoded

        ordered = [(pair, order) for pair in pairs for order in ("chosen_first", "chosen_second")]
        return [token_ids for token_ids, _ in encoded(ordered, self.template, self.tokenizer)]  # type: ignore[arg-type]


def demo_judge(run: Path) -> DemoJudge:
    """The last model of a run and the pairs held out from it.

    Raises:
        NoDemo: the run is not there, or not finished.

    """
    from pipelines.config.compose import load_config
    from pipelines.data.schema import read_pairs
    from pipelines.judgment.in_process import settings_of
    from pipelines.judgment.opening import judge_parts

    model, pairs = run / "rl" / "hf", run / "data" / "heldout.parquet"
    if not (model / "config.json").is_file() or not pairs.is_file():
        raise NoDemo(f"{run} holds no finished run, whose judge this measures: `make demo`, or name another by --demo")
    config = load_config([*settings_of(str(model)), f"judge.model={model}"])
    parts = judge_parts(config, config.judge)
    prompt, response = config.model.max_prompt_tokens, config.model.max_response_tokens
    found = read_pairs(pairs)
    return DemoJudge(str(model), found, prompt + response, response, parts.template, parts.tokenizer)


def body_of(pair: PreferencePair) -> dict[str, Any]:
    """A pair as a request of ``/v1/compare``."""
    return {"messages": plain_messages(pair.prompt), "response_a": pair.chosen, "response_b": pair.rejected}


@contextmanager
def served(model: str, *settings: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of ``model``, as `make serve` runs it, but for ``settings``."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder, open(Path(folder) / "log", "w+", encoding="utf-8") as log:
        asked = [f"serve.model={model}", f"serve.port={port}", f"output_root={folder}", *settings]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.serve", *_settings(model), *asked],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()


def _settings(model: str) -> list[str]:
    from pipelines.judgment.in_process import settings_of

    return settings_of(model)


def _wait(url: str, process: subprocess.Popen[bytes], log: Any) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
        log.seek(0)
        raise RuntimeError(f"the server did not start:\n{log.read()[-4000:]}")


@asynccontextmanager
async def client(address: str, connections: int) -> AsyncIterator[Callable[[Any], Awaitable[tuple[int, Any]]]]:
    """Asks ``/v1/compare``; status and JSON, or 0 and why. A lean client: it shares the machine with the server."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(address, connector=connector) as session:

        async def ask(body: Any) -> tuple[int, Any]:
            try:
                async with session.post("/v1/compare", json=body) as response:
                    return response.status, await response.json()
            except aiohttp.ClientError as error:
                return 0, str(error)

        yield ask


async def in_flight(ask: Callable[[Any], Awaitable[tuple[int, Any]]], bodies: Sequence[Any], most: int) -> list[Any]:
    """Answers to all bodies, ``most`` of them asked at the same time.

    Raises:
        RuntimeError: one was not answered.

    """
    numbers = itertools.count()
    answers: list[Any] = [None] * len(bodies)

    async def worker() -> None:
        while (number := next(numbers)) < len(bodies):
            status, answers[number] = await ask(bodies[number])
            if status != 200:
                raise RuntimeError(f"status {status}: {answers[number]}")

    await asyncio.gather(*(worker() for _ in range(most)))
    return answers
