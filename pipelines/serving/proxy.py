"""What Ray Serve's proxy answers for replicas, in the application's own form: too much is refused here, before it costs
anything, and a request whose replica is lost is one to ask again.

The proxy knows nothing but the path of :func:`middlewares`; it, the number of slots and the folder of the metrics are
in its environment.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serving.limits import Refused, Slots
from pipelines.serving.metrics import Metrics
from pipelines.serving.refusals import error_object, error_response
from pipelines.serving.streams import event

_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
_SLOTS, _COUNTED = "JUDGE_PROXY_SLOTS", "JUDGE_PROXY_METRICS"
JUDGING = ("/v1/compare", "/v1/score", "/v1/rank", "/v1/reward", "/v1/chat/completions")
"""Routes that name a series of the metrics; any other path could be anything."""
_LOST = Refused(503, "replica_lost", "the replica that had this request has ended: ask again", retry_after=1)
_BUSY = Refused(503, "no_replica", "no replica takes requests now: ask again", retry_after=5)
_LATE = Refused(504, "deadline_exceeded", "no replica answered in time: ask again", retry_after=1)
_OWN = {408: _LATE, 429: _BUSY, 503: _BUSY}
"""Statuses that the proxy answers with text of its own."""


def environment(in_flight: int, counted: str) -> dict[str, str]:
    """Variables of a proxy that passes on at most ``in_flight`` requests at once; ``counted``: the metrics' folder."""
    return {_CALLBACK: f"{__name__}.{middlewares.__name__}", _SLOTS: str(in_flight), _COUNTED: counted}


def middlewares() -> list[Middleware]:
    """Around the proxy's application, the outer first."""
    metrics = Metrics(os.environ[_COUNTED])
    return [
        Middleware(Shedding, slots=Slots(int(os.environ[_SLOTS])), metrics=metrics),
        Middleware(Answering, metrics=metrics),
    ]


class Shedding:
    """ASGI middleware: what replicas have no room for is refused here.

    Handing a request to a replica costs the proxy, one process, more than most machines have for a rush: it would be
    late for those that are taken on.
    """

    def __init__(self, app: ASGIApp, slots: Slots, metrics: Metrics) -> None:
        self._app = app
        self._slots = slots
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:

            async def passed(message: Message) -> None:
                # Before the client has all of it, which may ask the next then.
                if message["type"] == "http.response.body" and not message.get("more_body", False):
                    held.close()
                await send(message)

            try:
                held.enter_context(self._slots.slot())
            except Refused as refusal:
                self._metrics.count(_route(scope), refusal.status)
                await error_response(refusal)(scope, receive, send)
                return
            await self._app(scope, receive, passed)


class Answering:
    """ASGI middleware: a request whose replica died has an answer, and every answer is OpenAI's error object.

    Ray Serve ends such a request without a response, which the HTTP server turns into a plain status 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        refusal: Refused | None = None
        begun = whole = events = False

        async def passed(message: Message) -> None:
            nonlocal refusal, begun, whole, events
            if message["type"] == "http.response.start":
                kind = Headers(raw=message["headers"]).get("content-type", "")
                if not kind.startswith("application/json"):
                    refusal = _OWN.get(message["status"])
                begun, events = True, kind.startswith("text/event-stream")
            elif message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            if refusal is None:
                await send(message)

        await self._app(scope, receive, passed)
        if refusal is not None or not begun:
            refusal = refusal or _LOST
            self._metrics.count(_route(scope), refusal.status)
            await error_response(refusal)(scope, receive, send)
        elif events and not whole:
            last = event("error", error_object(_LOST)).encode()
            await send({"type": "http.response.body", "body": last, "more_body": False})


def _route(scope: Scope) -> str:
    return scope["path"] if scope["path"] in JUDGING else "other"
