"""The HTTP side: a route for each trainer's form; a member's request is answered when its group is judged."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from actors.errors import UserError
from pipelines.data.schema import DataError, conversation_of, text_field
from pipelines.judgment.connection import JudgeUnreachable
from pipelines.judgment.rewards import Rewards
from pipelines.rewarding.gathering import Gatherer, GatherRule, GroupFailed, GroupMismatch, JudgeGroup, Reward
from pipelines.rewarding.peers import PolicyText, Sample, gym_messages, gym_sample, gym_text, openrlhf_samples
from pipelines.serving.limits import Refused, check_key
from pipelines.serving.refusals import DEFECT, error_response, invalid_body, of_request, unread

T = TypeVar("T")
log = logging.getLogger(__name__)
_UNJUDGED = 10_000
"""Responses of no reward that are remembered, so that clients that ask again do not open a group of their own."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the server takes."""

    rule: GatherRule
    group_size: int | None
    policy: PolicyText
    question_in: str
    body_bytes: int
    keys: tuple[str, ...]


class Member(BaseModel):
    """One response of a group, by clients that state the group themselves."""

    model_config = ConfigDict(extra="forbid", strict=True)

    group: str = Field(min_length=1, description="Tells groups that are open at the same time apart.")
    size: int = Field(ge=2, description="Members of the group.")
    member: str | None = Field(None, description="Its name; with one, a repeated request is no further member.")
    prompt: str | list[dict[str, str]]
    response: str


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def build_app(judge: JudgeGroup, model: str, taken: Taken) -> FastAPI:
    """The application; ``judge`` rewards a question's responses, and ``model`` is its name."""
    gatherer = Gatherer(judge, taken.rule)
    unjudged: OrderedDict[tuple[str, str], Reward] = OrderedDict()

    def allowed(request: Request) -> None:
        check_key(taken.keys, _as_bearer(request.headers.get("authorization")))
        stated = request.headers.get("content-length", "")
        if request.method == "POST" and (not stated.isdecimal() or int(stated) > taken.body_bytes):
            raise Refused(413, "request_too_large", f"state a body's length; at most {taken.body_bytes} bytes")

    app = FastAPI(title="Rewards of groups", dependencies=[Depends(allowed)])

    async def join(sample: Sample, size: int | None) -> Reward:
        if size is None:
            raise Refused(422, "no_group_size", "start the server with reward.group_size: this form does not state it")
        # A text that cannot be judged would take the whole group with it.
        conversation_of(sample.question, "request")
        text_field({"response": sample.response}, "response", "request")
        place = sample.key, sample.response
        if sample.member is None and place in unjudged:
            return unjudged[place]
        found = await gatherer.join(sample.key, size, sample.question, sample.response, sample.member)
        if found.reward is None:
            unjudged[place] = found
            if len(unjudged) > _UNJUDGED:
                unjudged.popitem(last=False)
        return found

    async def joined(request: Request, samples: Sequence[Sample], size: int | None) -> list[Reward]:
        """Every sample's reward; each waits for its own group, all at the same time."""
        tasks = [asyncio.ensure_future(join(sample, size)) for sample in samples]
        try:
            return list(await _unless_gone(request, asyncio.gather(*tasks)))
        finally:
            for task in tasks:
                task.cancel()

    def all_judged(rewards: Sequence[Reward]) -> list[float]:
        """The rewards, where the form has no word for one that is missing."""
        numbers = [found.reward for found in rewards if found.reward is not None]
        if len(numbers) < len(rewards):
            failures = next(dict(found.failures) for found in rewards if found.reward is None)
            raise Refused(422, "not_judged", f"nothing about a response could be read, so it has no reward: {failures}")
        return numbers

    @app.post("/v1/reward/member")
    async def member(body: Member, request: Request) -> dict[str, Any]:
        """The reward of one response, once its group is judged; null with its causes where nothing could be read."""
        sample = Sample(f"member/{body.group}", body.prompt, body.response, body.member)
        (found,) = await joined(request, [sample], body.size)
        return asdict(found)

    @app.post("/openrlhf")
    async def openrlhf(body: dict[str, Any], request: Request) -> dict[str, Any]:
        """OpenRLHF's remote reward."""
        samples = openrlhf_samples(body, taken.policy, taken.question_in)
        found = await joined(request, samples, taken.group_size)
        rewards = all_judged(found)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"group_members": [one.members for one in found]}}

    @app.post("/verify")
    async def verify(body: dict[str, Any], request: Request) -> dict[str, Any]:
        """NeMo Gym's verification of one rollout."""
        (reward,) = all_judged(await joined(request, [gym_sample(body)], taken.group_size))
        return {**body, "reward": reward}

    @app.post("/compare")
    async def compare(body: dict[str, Any], request: Request) -> dict[str, Any]:
        """NeMo Gym's comparison of responses that are all there."""
        stated = body.get("response_objs") or []
        if not isinstance(stated, list):
            raise DataError(f"response_objs: must be a list, not {type(stated).__name__}")
        responses = [gym_text(item) for item in stated]
        if not responses:
            return {"rewards": [], "comparison_results": [], "metrics": {}}
        question = gym_messages(body.get("conversation_history"))
        found: Rewards = await _unless_gone(request, judge(question, responses))
        if found.failed:
            raise GroupFailed(f"an engine failed: {dict(found.failures)}")
        rewards = all_judged([Reward(reward, len(responses), found.failures) for reward in found.rewards])
        return {"rewards": rewards, "comparison_results": None, "metrics": {"comparisons": found.calls}}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Answers while requests are taken."""
        return {"status": "ok", "model": model, "waiting": gatherer.waiting}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The judge's model."""
        return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "user"}]}

    _refusals(app)
    return app


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` comes to; it is cancelled when the client has closed its connection."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


def _as_bearer(authorization: str | None) -> str | None:
    """Clients that send no header of their own state a key as the password of the address: Basic authentication."""
    kind, _, given = (authorization or "").partition(" ")
    if kind.lower() != "basic":
        return authorization
    try:
        return f"Bearer {base64.b64decode(given, validate=True).decode().partition(':')[2]}"
    except (binascii.Error, UnicodeDecodeError):
        return None


def _refusals(app: FastAPI) -> None:
    """Every refusal as OpenAI's error object."""

    def answer(status: int, code: str, message: str, retry_after: int | None = None) -> JSONResponse:
        kind = "invalid_request_error" if status < 500 else "server_error"
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        return JSONResponse(body, status_code=status, headers=headers)

    def on(kind: type[Exception], say: Callable[[Any], JSONResponse]) -> None:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            if isinstance(error, UserError):
                log.warning("%s: %s", request.url.path, error)
            return say(error)

        app.add_exception_handler(kind, handler)

    on(Refused, lambda error: answer(error.status, error.code, str(error), error.retry_after))
    on(DataError, lambda error: answer(422, "invalid_request", of_request(str(error))))
    on(GroupMismatch, lambda error: answer(409, "group_mismatch", str(error)))
    on(GroupFailed, lambda error: answer(503, "group_failed", str(error), 1))
    on(JudgeUnreachable, lambda error: answer(503, "judge_unreachable", str(error), 1))
    on(UserError, lambda error: answer(502, "judge_refused", str(error)))
    # The client reads no answer any more; 499 is what proxies log in its place.
    on(ClientGone, lambda error: answer(499, "client_gone", "the client closed its connection"))
    on(RequestValidationError, lambda error: answer(422, "invalid_request", invalid_body(error.errors())[0]))
    on(HTTPException, lambda error: error_response(unread(error), headers=error.headers))
    on(Exception, lambda error: error_response(DEFECT))
