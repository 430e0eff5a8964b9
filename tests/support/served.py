"""An application of ASGI behind a real socket, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from scripted_engines import RULE, ScriptedEngines, judge_of

from pipelines.serving.app import build_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service

LIMITS = Limits(in_flight=64, body_bytes=2_000_000, votes=16, responses=64, deadline=60.0)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address at which ``app`` answers, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            asyncio.run(server.serve())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started:
        if failed:
            raise failed[0]
        started.wait(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def app_of(engines: ScriptedEngines, keys: tuple[str, ...] = (), rule: Any = RULE, limits: Limits = LIMITS) -> Any:
    """The application that `make serve` runs, on scripted engines."""
    return build_app(Service(judge_of(engines, rule), limits), keys)


class Faulty:
    """An application that answers the first POSTs by a script: a status with its headers, or ``cut`` connections."""

    def __init__(self, app: Any, *faults: tuple[int, dict[str, str]] | str) -> None:
        self._app = app
        self._faults = list(faults)
        self.posts = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self.posts += 1
        if not self._faults:
            await self._app(scope, receive, send)
            return
        fault = self._faults.pop(0)
        if fault == "cut":
            # Headers promise a body that never comes: the server closes the connection.
            headers = [(b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{", "more_body": False})
            return
        status, named = fault
        headers = [(name.encode(), value.encode()) for name, value in named.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": {"message": "scripted", "code": "x"}}'})
