"""What every request passes, however its answer is sent: the key, the length of the body, a slot, the metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.limits import Refused, Slots, check_key
from pipelines.serving.metrics import Metrics
from pipelines.serving.refusals import DEFECT, error_response

log = logging.getLogger(__name__)
_CLOSED = 499
"""Status, in the metrics alone, of a request whose client went away before it was answered."""


class Guard:
    """ASGI middleware around the whole answer: a stream holds its slot until it ends, or its client goes away."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str],
        slots: Slots,
        body_bytes: int,
        body_seconds: float,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
    ) -> None:
        self._app = app
        self._keys = keys
        self._slots = slots
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), _CLOSED

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._admitted(scope):
                await self._app(scope, _in_time(receive, self._body_seconds), noted)
        except Refused as refusal:
            await error_response(refusal)(scope, receive, noted)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if status != _CLOSED:
                raise
            await error_response(DEFECT)(scope, receive, noted)
        finally:
            # Only routes that are there name a series: what strangers ask for could be anything.
            known = any(isinstance(route, Route) and route.path == scope["path"] for route in self._routes)
            self._metrics.record(scope["path"] if known else "other", status, time.perf_counter() - started)

    def _admitted(self, scope: Scope) -> AbstractContextManager[None]:
        """What the request holds while it is answered.

        Raises:
            Refused: 401, 411, 413 or 429.

        """
        if not scope["path"].startswith("/v1/"):
            return nullcontext()
        headers = Headers(scope=scope)
        check_key(self._keys, headers.get("authorization"))
        if scope["method"] != "POST":
            return nullcontext()
        _check_length(headers.get("content-length"), self._body_bytes)
        return self._slots.slot()


def _in_time(receive: Receive, seconds: float) -> Receive:
    """``receive`` for a body that must be whole within ``seconds``: one that stalls would hold its slot."""
    deadline = time.monotonic() + seconds
    whole = False

    async def received() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await receive()
        except TimeoutError as error:
            raise Refused(408, "request_timeout", f"the body was not whole within {seconds:g} s") from error
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return received


def _check_length(stated: str | None, most: int) -> None:
    """Refuse a body before it is read. One that does not state its length could be of any.

    Raises:
        Refused: 411 or 413.

    """
    if stated is None or not stated.isdecimal():
        raise Refused(411, "length_required", "send the length of the body: the header `Content-Length`")
    if int(stated) > most:
        raise Refused(413, "request_too_large", f"a body of {stated} bytes; at most {most}")
