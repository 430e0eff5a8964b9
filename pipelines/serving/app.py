"""The HTTP side: routes, and every refusal as OpenAI's error object. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from actors.deadlines import ActorFailed, DeadlineExceeded
from pipelines.data.schema import DataError
from pipelines.judgment.modes import ModeUnsupported
from pipelines.serving.guard import Guard
from pipelines.serving.limits import Refused, Slots
from pipelines.serving.metrics import Metrics
from pipelines.serving.page import page
from pipelines.serving.refusals import DEFECT, error_object, error_response, invalid_body, of_request, unread
from pipelines.serving.requests import ChatRequest, CompareRequest, RankRequest, RewardRequest, ScoreRequest
from pipelines.serving.service import Service
from pipelines.serving.streams import Answer, Comparison, Completion, streamed

log = logging.getLogger(__name__)


def build_app(service: Service, keys: Sequence[str], replica: int = 0, counted: str | None = None) -> FastAPI:
    """The application of one replica, which is numbered as its log is; ``counted`` is the folder of its metrics."""
    app = FastAPI(title="Reasoning reward model", description="Compares, ranks and rewards responses, with reasons.")
    slots, metrics = Slots(service.limits.in_flight), Metrics(counted)
    app.add_middleware(
        Guard,
        keys=keys,
        slots=slots,
        body_bytes=service.limits.body_bytes,
        body_seconds=service.limits.deadline,
        metrics=metrics,
        routes=app.routes,
    )

    async def answered(http: Request, work: Awaitable[Answer]) -> Answer:
        """What ``work`` comes to before the deadline, and before its client goes away: both end it."""
        metrics.in_flight.inc()
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
        try:
            await asyncio.wait({task, gone}, timeout=service.limits.deadline, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and not task.done():
                raise Refused(499, "client_closed_request", "the client has gone away")
            if not task.done():
                seconds = f"{service.limits.deadline:g} s"
                raise Refused(504, "deadline_exceeded", f"no answer within {seconds}", retry_after=1)
            answer = task.result()
            metrics.count_tokens(answer["usage"])
            return answer
        except ModeUnsupported as error:
            raise Refused(422, "mode_unsupported", str(error)) from error
        except DataError as error:
            raise Refused(422, "invalid_request", of_request(str(error))) from error
        except (ActorFailed, DeadlineExceeded) as error:
            raise Refused(503, "engine_unavailable", str(error), retry_after=5) from error
        finally:
            task.cancel()
            gone.cancel()
            metrics.in_flight.dec()

    @app.get("/", include_in_schema=False)
    async def people() -> Response:
        """A page to compare two answers on."""
        return page()

    @app.post("/v1/compare", response_model=None)
    async def compare(request: CompareRequest, http: Request) -> Answer | StreamingResponse:
        """Which of two responses is better, why, and how surely; both orders are asked."""
        if not request.stream:
            return await answered(http, service.compare(request))
        return await streamed(lambda told: answered(http, service.compare(request, told)), Comparison(), _failed)

    @app.post("/v1/score")
    async def score(request: ScoreRequest, http: Request) -> Answer:
        """How good one response is, from 1 to 10, and why."""
        return await answered(http, service.score(request))

    @app.post("/v1/rank")
    async def rank(request: RankRequest, http: Request) -> Answer:
        """The responses in order, by a tournament of comparisons or, four at most, in one prompt."""
        return await answered(http, service.rank(request))

    @app.post("/v1/reward")
    async def reward(request: RewardRequest, http: Request) -> Answer:
        """A reward in [0, 1] for each response of a group."""
        return await answered(http, service.reward(request))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: ChatRequest, http: Request) -> Answer | StreamingResponse:
        """The judge's own completion of a conversation, as OpenAI's clients ask for it."""
        header = service.chat_header()
        if not request.stream:
            return await answered(http, service.chat(request, header))
        form = Completion(header, request.wants_usage)
        return await streamed(lambda told: answered(http, service.chat(request, header, told)), form, _failed)

    @app.get("/v1/models")
    async def models() -> Answer:
        """The one model here."""
        return {"object": "list", "data": [{"id": service.model, "object": "model", "created": 0, "owned_by": "user"}]}

    @app.get("/health")
    async def health() -> Answer:
        """Answers while requests are taken: those in flight, and judgments that the engine has not finished."""
        try:
            unfinished = await service.unfinished()
        except (ActorFailed, DeadlineExceeded) as error:
            raise Refused(503, "engine_unavailable", str(error), retry_after=5) from error
        counts = {"in_flight": slots.taken, "unfinished": unfinished}
        return {"status": "ok", "model": service.model, "replica": replica, **counts}

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Of the whole server, as Prometheus reads them."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
        return error_response(refusal)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said, field = invalid_body(error.errors())
        return error_response(Refused(422, "invalid_request", said), param=field)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_response(unread(error), headers=error.headers)

    return app


async def _gone(http: Request) -> None:
    """Return when the client has closed its connection. The body has been read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _failed(error: Exception) -> Answer:
    """The error object of a stream that has begun."""
    if isinstance(error, Refused):
        return error_object(error)
    log.error("a stream", exc_info=error)
    return error_object(DEFECT)
