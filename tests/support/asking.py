"""Requests put to a local server by the client and the dispatcher that `make chains` uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from teacher_server import MODEL, Reply, Script, TeacherServer, sent_text

from pipelines.config import Teacher
from pipelines.endpoints.dispatch import Asked, Dispatcher
from pipelines.endpoints.endpoint import Endpoint
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.limits import Budget
from pipelines.endpoints.requests import Request, build_request
from pipelines.endpoints.teachers import NamedTeacher

# A second for a whole answer: long on a busy machine, short in a test that waits for it once.
QUICK = Teacher(model=MODEL, max_tokens=100, backoff=0.001, timeout=1.0, concurrency=3, attempts=6, give_up_after=4)


def requests_for(count: int) -> list[Request]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    return [build_request(QUICK, one, f"p{number}/chosen_first", 0, 0, 7) for number, one in enumerate(messages)]


def ask(
    script: Script,
    path: Path,
    settings: Teacher = QUICK,
    count: int = 6,
    budget: Budget | None = None,
    address: Callable[[str], str] = str,
) -> tuple[Asked, TeacherServer]:
    """Put so many requests to a server that acts out ``script``; ``address`` changes how its URL is written."""
    requests = requests_for(count)
    with TeacherServer(script) as server, Journal(path) as journal:
        teacher = NamedTeacher("chains.first", replace(settings, base_url=address(server.url)))

        async def run() -> Asked:
            async with Endpoint(teacher) as client:
                missing = [item for item in requests if item.key not in journal.answers]
                dispatcher = Dispatcher(client, teacher, journal, budget or Budget(0, 0.0))
                return await dispatcher.ask(missing, lambda outcome: None)

        return asyncio.run(run()), server


def echo(body: dict[str, Any]) -> Reply:
    return Reply(f"answer to {sent_text(body)}")


def first_time(bad: Reply) -> Script:
    """Misbehave at the first attempt of every request."""
    return lambda body, seen: bad if seen == 1 else echo(body)
