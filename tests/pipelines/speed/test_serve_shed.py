"""The load on a server, with one whose capacity is known in place of a judge's."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from served import listening

from pipelines.speed import serve_shed
from pipelines.speed.demo_judge import client, in_flight

SLOTS, SECONDS = 4, 0.04


class Slow:
    """Answers so many requests at a time, each after a while; refuses others. Every ``late``-th comes too late."""

    def __init__(self, late: int = 0) -> None:
        self._late = late
        self._taken = 0
        self.accepted = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        status = 429 if self._taken >= SLOTS and scope["path"] == "/v1/compare" else 200
        if status == 200:
            self._taken += 1
            self.accepted += 1
            await asyncio.sleep(0.5 if self._late and self.accepted % self._late == 0 else SECONDS)
            self._taken -= 1
        body = json.dumps({"usage": {"completion_tokens": 1}}).encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": body})


@pytest.mark.slow
@pytest.mark.parametrize(("late", "deadline"), [(0, 60.0), (20, 0.3)])
def test_what_is_taken_on_and_late_counts_against_it(
    monkeypatch: pytest.MonkeyPatch, late: int, deadline: float
) -> None:
    for name, value in (("SECONDS", 2.0), ("DEADLINE", deadline), ("SLOTS", SLOTS)):
        monkeypatch.setattr(serve_shed, name, value)
    app = Slow(late)
    with listening(app) as address:
        found = asyncio.run(serve_shed.load(address, os.getpid(), [{}]))
    assert found["serve_shed_failed"] == 0
    assert found["serve_shed_answers_afterwards"] == 1.0
    assert found["serve_shed_offered_per_second"] >= found["serve_shed_accepted_per_second"] > 0
    assert (found["serve_shed"] < 0.99) == bool(late)


def test_a_request_that_is_refused_ends_a_measure() -> None:
    async def ask(address: str) -> None:
        async with client(address, 0) as compare:
            await in_flight(compare, [{}] * 40, 2 * SLOTS)

    with listening(Slow()) as address, pytest.raises(RuntimeError, match="status 429"):
        asyncio.run(ask(address))
