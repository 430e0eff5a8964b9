"""Refusals as OpenAI's error object, and what was wrong with a request in words for who sent it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipelines.serving.limits import Refused

DEFECT = Refused(500, "internal_error", "a defect of the server; its log has the traceback")
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


def error_object(refusal: Refused, param: str | None = None) -> dict[str, Any]:
    """The body of a response; ``param`` is the field of the request that is wrong."""
    kind = _KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": str(refusal), "type": kind, "param": param, "code": refusal.code}}


def error_response(
    refusal: Refused, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response, with ``Retry-After`` where the same request may be asked again."""
    later = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return JSONResponse(error_object(refusal, param), status_code=refusal.status, headers={**(headers or {}), **later})


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """What is wrong with a body, and the field, from what validation found."""
    first = errors[0]
    place = first["loc"][1:]
    if first["type"] == "json_invalid":
        return f"the body is no JSON: {first['ctx']['error']} (character {place[0] + 1})", None
    if place:
        # Of a field that may be of several types, the one that came furthest.
        mine = [error for error in errors if error["loc"][1:2] == place[:1]]
        deepest = max(mine, key=lambda error: len(error["loc"]))
        # Names of types are no part of the place.
        parts = [part for part in deepest["loc"][1:] if not _TYPE.fullmatch(str(part))]
        field = ".".join(map(str, parts))
        said = _WORDS.get(deepest["type"], deepest["msg"])
        return f"{field}: {said}", field
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, "), None
    if isinstance(first.get("input"), bytes):
        return "the body is not read: send JSON with the header `Content-Type: application/json`", None
    if first["type"] == "missing":
        return "the body is empty: it must be a JSON object", None
    return ("the body must be a JSON object" if first["type"] in _NO_OBJECT else first["msg"]), None


def unread(error: HTTPException) -> Refused:
    """Why a request came to no route, or its body could not be read."""
    cause = error.__cause__
    if isinstance(cause, Refused):
        return cause
    said = _ROUTES.get(error.status_code, str(error.detail))
    if error.status_code == 400 and cause is not None:
        ours = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}
        said = f"the body is no JSON: {ours.get(type(cause), str(cause).partition(':')[0])}"
    return Refused(error.status_code, "invalid_request", said)


def of_request(message: str) -> str:
    """A message about a row of data as one about a request."""
    return _OF_A_ROW.sub(lambda found: f": {found[1]} it" if found[1] else "", message)


_ROUTES = {404: "no such route: see /docs", 405: "the route has other methods: see /docs"}
_TYPE = re.compile(r"str|list\[.*\]")
_WORDS = {"extra_forbidden": "no such field: leave it out", "missing": "required, and not there"}
_NO_OBJECT = ("model_attributes_type", "model_type", "dict_type")
_OF_A_ROW = re.compile(r": (?:(repair|shorten) or )?remove the row$")
