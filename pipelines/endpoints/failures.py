"""What can go wrong with one request, in three kinds, and how long to wait before the next attempt. Pure.

``retry``: the server or the way to it is at fault, and the same request may succeed later. ``refused``: this request
will not be answered, others may. ``fatal``: no request will be answered until a person changes something.
"""

from __future__ import annotations

import email.utils
import json
import math
import random
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from actors.errors import UserError
from actors.redaction import redact

Kind = Literal["retry", "refused", "fatal"]

_LONGEST_BACKOFF = 60.0
_REFUSED = {400, 413, 422}
_FATAL = {401: "key refused", 402: "no credit", 403: "not allowed", 404: "no such model or address"}
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NAMED = {
    **{"rate_limit": 429, "too_many": 429, "resource_exhausted": 429, "quota": 429, "billing": 429, "credit": 402},
    **{"api_key": 401, "authentication": 401, "unauthenticated": 401, "unauthorized": 401},
    **{
        "permission": 403,
        "forbidden": 403,
        "not_found": 404,
        "context_length": 400,
        "invalid": 400,
        "bad_request": 400,
    },
}
"""What the names of errors hold, and the HTTP status that goes with it; the first that fits counts."""


class TeacherError(UserError, RuntimeError):
    """A teacher cannot go on; says why and what to do. What it had answered is kept in the journal."""


class AttemptFailed(Exception):
    """An attempt brought no whole answer, though nothing else went wrong. ``cause`` is short and countable."""

    def __init__(self, cause: str, detail: str, kind: Kind = "retry", retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.kind = kind
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one attempt gave no answer."""

    kind: Kind
    cause: str
    """Short and countable: ``rate limited``, ``server error``, ``timeout``, ``broken answer``, ..."""
    detail: str
    retry_after: float | None = None
    """Seconds the server asked to wait; None where it did not say."""


def classify(error: Exception) -> Failure | None:
    """The kind of a failed attempt; None for an error that no server explains, which is a defect of ours."""
    failure = _classify(error)
    return failure and replace(failure, detail=one_line(failure.detail))


def _classify(error: Exception) -> Failure | None:
    import anyio
    import httpx2
    import openai

    if isinstance(error, openai.APIStatusError):
        return _of_status(error.status_code, error.message, error.response.headers, str(error.code or ""))
    if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
        return Failure("retry", "timeout", str(error) or "no answer in time")
    if isinstance(error, openai.APIConnectionError):
        return Failure("retry", "connection", str(error.__cause__ or error))
    # While the answer is read, the client hands on what its own connection raises.
    if isinstance(error, httpx2.RequestError | ssl.SSLError | anyio.EndOfStream):
        return Failure("retry", "connection", str(error) or type(error).__name__)
    if isinstance(error, AttemptFailed):
        return Failure(error.kind, error.cause, str(error), error.retry_after)
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return Failure("retry", "broken answer", f"not the JSON of a completion: {error}")
    return None


def reported(body: Any, headers: Mapping[str, str]) -> AttemptFailed | None:
    """The error that JSON sent with status 200 states, with the status it carries; None where it states none."""
    if not isinstance(body, Mapping):
        return None
    error = body.get("error")
    if error is True or (not error and "choices" not in body and isinstance(_said(body), str)):
        error = body
    if not error:
        return None
    fields = error if isinstance(error, Mapping) else {"message": error}
    # A gateway repeats here what the server behind it said.
    behind = fields["metadata"].get("raw") if isinstance(fields.get("metadata"), Mapping) else None
    detail = " ".join(str(part) for part in (_said(fields), behind) if part)
    failure = _of_status(_status_of(fields), detail, headers, str(fields.get("code") or fields.get("type") or ""))
    return AttemptFailed(failure.cause, failure.detail, failure.kind, failure.retry_after)


def _said(fields: Mapping[str, Any]) -> Any:
    return fields.get("message") or fields.get("detail")


def _status_of(fields: Mapping[str, Any]) -> int:
    """The HTTP status an error states as a number or by a name; 500 where it does not."""
    stated = [str(fields.get(name) or "") for name in ("code", "status", "status_code", "type")]
    numbers = [int(value) for value in stated if re.fullmatch(r"[45]\d\d", value)]
    if numbers:
        return numbers[0]
    named = re.sub(r"\W", "_", " ".join(stated) if any(stated) else str(_said(fields))).lower()
    return next((status for name, status in _NAMED.items() if name in named), 500)


def _of_status(status: int, detail: str, headers: Mapping[str, str], code: str) -> Failure:
    detail = f"HTTP {status}: {detail}"
    if status == 429 and code in _NO_CREDIT:
        return Failure("fatal", "no credit", detail)
    if status in _FATAL:
        return Failure("fatal", _FATAL[status], detail)
    if status in _REFUSED:
        return Failure("refused", "refused", detail)
    if status in (408, 409, 425, 429) or status >= 500:
        cause = "rate limited" if status == 429 else "server error"
        return Failure("retry", cause, detail, retry_after(headers, time.time()))
    return Failure("fatal", "unexpected status", detail)


def one_line(text: str) -> str:
    """What a server said, as a person may see it: no secrets, valid Unicode, one line not longer than a terminal's."""
    printable = redact(text).encode(errors="backslashreplace").decode()
    return " ".join(printable.split())[:300]


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by ``retry-after-ms`` or ``Retry-After`` (seconds or an HTTP date; RFC 9110, 10.2.3)."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - now)


def wait_before(attempt: int, base: float, asked: float | None, rng: random.Random) -> float:
    """Seconds before attempt ``attempt`` (2 is the first repetition).

    Exponential backoff, at most a minute, with jitter over its upper half. What the server ``asked`` for is the least
    that is waited, and the jitter comes on top of it, so that those who were told the same do not come back together.
    """
    backoff = min(_LONGEST_BACKOFF, base * 2.0 ** min(attempt - 2, 30)) * rng.uniform(0.5, 1.0)
    return backoff if asked is None else asked + backoff / 4
