"""Failures in their three kinds, and waits that honour what a server asked for."""

from __future__ import annotations

import random

import pytest

from pipelines.endpoints.failures import AttemptFailed, classify, retry_after, wait_before

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Tue, 14 Nov 2023 22:14:20 GMT"}, 60.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_backoff_doubles_with_jitter_up_to_a_minute() -> None:
    rng = random.Random(0)
    for attempt, longest in [(2, 1.0), (3, 2.0), (4, 4.0), (8, 60.0), (400, 60.0)]:
        waits = [wait_before(attempt, 1.0, None, rng) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
        assert max(waits) - min(waits) > 0.4 * longest


def test_what_the_server_asks_for_is_the_least() -> None:
    rng = random.Random(0)
    waits = [wait_before(2, 1.0, 30.0, rng) for _ in range(200)]
    assert 30 < min(waits) < max(waits) <= 30.25


@pytest.mark.parametrize(
    ("status", "code", "kind", "cause"),
    [
        (429, "", "retry", "rate limited"),
        (429, "insufficient_quota", "fatal", "no credit"),
        (500, "", "retry", "server error"),
        (503, "", "retry", "server error"),
        (529, "", "retry", "server error"),
        (408, "", "retry", "server error"),
        (400, "", "refused", "refused"),
        (413, "", "refused", "refused"),
        (401, "", "fatal", "key refused"),
        (403, "", "fatal", "not allowed"),
        (404, "", "fatal", "no such model or address"),
        (418, "", "fatal", "unexpected status"),
    ],
)
def test_every_status_has_a_kind(status: int, code: str, kind: str, cause: str) -> None:
    import httpx2
    import openai

    response = httpx2.Response(status, request=httpx2.Request("POST", "http://x"), headers={"retry-after": "3"})
    error = openai.APIStatusError("no\nmore", response=response, body={"code": code})
    failure = classify(error)
    assert failure is not None
    assert (failure.kind, failure.cause) == (kind, cause)
    assert failure.detail == f"HTTP {status}: no more"
    assert failure.retry_after == (3.0 if kind == "retry" else None)


def test_our_own_defects_are_not_explained_away() -> None:
    assert classify(KeyError("x")) is None
    assert classify(AttemptFailed("prompt too long", "d", "refused")) is not None
