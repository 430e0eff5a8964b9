"""Refusals as OpenAI's error object."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from pipelines.serving.limits import Refused

DEFECT = Refused(500, "internal_error", "a defect of the server; its log has the traceback")
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


def error_object(refusal: Refused, param: str | None = None) -> dict[str, Any]:
    """The body of a response; ``param`` is the field of the request that is wrong."""
    kind = _KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": str(refusal), "type": kind, "param": param, "code": refusal.code}}


def error_response(refusal: Refused, param: str | None = None) -> JSONResponse:
    """The response, with ``Retry-After`` where the same request may be asked again."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return JSONResponse(error_object(refusal, param), status_code=refusal.status, headers=headers)
