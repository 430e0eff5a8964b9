"""The HTTP side: routes, and every refusal as OpenAI's error object. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route

from actors.deadlines import ActorFailed, DeadlineExceeded
from pipelines.data.schema import DataError
from pipelines.serving.limits import Refused, Slots, check_key
from pipelines.serving.requests import ChatRequest, CompareRequest, RankRequest, RewardRequest, ScoreRequest
from pipelines.serving.service import Service

Answer = dict[str, Any]
log = logging.getLogger(__name__)


def build_app(service: Service, keys: Sequence[str]) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(title="Reasoning reward model", description="Compares, ranks and rewards responses, with reasons.")
    slots, metrics = Slots(service.limits.in_flight), _Metrics()

    async def answered(work: Awaitable[Answer]) -> Answer:
        """What ``work`` comes to before the deadline."""
        metrics.in_flight.inc()
        try:
            answer = await asyncio.wait_for(work, service.limits.deadline)
            metrics.count_tokens(answer["usage"])
            return answer
        except TimeoutError as error:
            seconds = f"{service.limits.deadline:g} s"
            raise Refused(504, "deadline_exceeded", f"no answer within {seconds}", retry_after=1) from error
        except DataError as error:
            raise Refused(422, "invalid_request", str(error)) from error
        except (ActorFailed, DeadlineExceeded) as error:
            raise Refused(503, "engine_unavailable", str(error), retry_after=5) from error
        finally:
            metrics.in_flight.dec()

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        started, route = time.perf_counter(), request.url.path
        try:
            if not route.startswith("/v1/"):
                return await call(request)
            check_key(keys, request.headers.get("authorization"))
            if request.method == "POST":
                _check_length(request.headers.get("content-length"), service.limits.body_bytes)
            with slots.slot() if request.method == "POST" else nullcontext():
                response = await call(request)
        except Refused as refusal:
            response = _error(refusal.status, refusal.code, str(refusal), refusal.retry_after)
        except Exception:
            log.exception("%s %s", request.method, route)
            response = _error(500, "internal_error", "a defect of the server; its log has the traceback")
        # Only routes that are there name a series: what strangers ask for could be anything.
        name = route if any(route == known.path for known in app.routes if isinstance(known, Route)) else "other"
        metrics.record(name, response.status_code, time.perf_counter() - started)
        return response

    @app.post("/v1/compare")
    async def compare(request: CompareRequest) -> Answer:
        """Which of two responses is better, why, and how surely; both orders are asked."""
        return await answered(service.compare(request))

    @app.post("/v1/score")
    async def score(request: ScoreRequest) -> Answer:
        """How good one response is, from 1 to 10, and why."""
        return await answered(service.score(request))

    @app.post("/v1/rank")
    async def rank(request: RankRequest) -> Answer:
        """The responses in order, by a tournament of comparisons or, four at most, in one prompt."""
        return await answered(service.rank(request))

    @app.post("/v1/reward")
    async def reward(request: RewardRequest) -> Answer:
        """A reward in [0, 1] for each response of a group."""
        return await answered(service.reward(request))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest) -> Answer | StreamingResponse:
        """The judge's own completion of a conversation, as OpenAI's clients ask for it."""
        completion = await answered(service.chat(request))
        if not request.stream:
            return completion
        return StreamingResponse(_chunks(completion, request.wants_usage), media_type="text/event-stream")

    @app.get("/v1/models")
    async def models() -> Answer:
        """The one model here."""
        return {"object": "list", "data": [{"id": service.model, "object": "model", "created": 0, "owned_by": "user"}]}

    @app.get("/health")
    async def health() -> Answer:
        """Answers while requests are taken."""
        return {"status": "ok", "model": service.model, "in_flight": slots.taken}

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Of this replica, as Prometheus reads them."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
        return _error(refusal.status, refusal.code, str(refusal), refusal.retry_after)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        # The first part says "body"; numbers are positions in a list, or in the text where it is no JSON.
        field = ".".join(map(str, first["loc"][1:])) or None
        return _error(422, "invalid_request", first["msg"], param=field)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, "invalid_request", str(error.detail))

    return app


class _Metrics:
    """Of one replica; see ``/metrics``."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("judge_requests", "By route and status", ["route", "status"], registry=registry)
        self._seconds = Histogram("judge_request_seconds", "From request to answer", ["route"], registry=registry)
        self._tokens = Counter("judge_tokens", "Read and written for answers", ["kind"], registry=registry)
        self.in_flight = Gauge("judge_requests_in_flight", "Requests being answered", registry=registry)

    def record(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def count_tokens(self, usage: Mapping[str, int]) -> None:
        for kind in ("prompt", "completion"):
            self._tokens.labels(kind).inc(usage[f"{kind}_tokens"])


def _check_length(stated: str | None, most: int) -> None:
    """Refuse a body before it is read. One that does not state its length could be of any.

    Raises:
        Refused: 411 or 413.

    """
    if stated is None or not stated.isdecimal():
        raise Refused(411, "length_required", "send the length of the body: the header `Content-Length`")
    if int(stated) > most:
        raise Refused(413, "request_too_large", f"a body of {stated} bytes; at most {most}")


async def _chunks(completion: Answer, with_usage: bool) -> AsyncIterator[str]:
    """A completion as OpenAI's stream: the whole text in one chunk for each choice."""
    usage = completion["usage"]
    whole = {**completion, "object": "chat.completion.chunk", "usage": None}
    parts = []
    for choice in completion["choices"]:
        parts.append([{"index": choice["index"], "delta": choice["message"], "finish_reason": None}])
        parts.append([{"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}])
    for part in parts:
        yield f"data: {json.dumps({**whole, 'choices': part})}\n\n"
    if with_usage:
        yield f"data: {json.dumps({**whole, 'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def _error(
    status: int, code: str, message: str, retry_after: int | None = None, param: str | None = None
) -> JSONResponse:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)
