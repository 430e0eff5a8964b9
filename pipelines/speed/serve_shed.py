"""A server that is asked ten times as much as it can do for a minute: what it takes on, it does in time."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from actors.processes import is_engine
from pipelines.speed.demo_judge import body_of, client, demo_judge, in_flight, served

TIMES, SECONDS, DEADLINE, VOTES, SLOTS = 10, 60.0, 10.0, 4, 64
"""Requests of 4 votes in both orders, so that ten times the capacity is no more than this machine's client can send."""


def serve_shed(run: Path) -> dict[str, float]:
    """The capacity is what 64 requests at a time are answered in a second; then requests come at ten times that rate
    for 60 s, whether others were answered or not. ``serve_shed``: of those not refused with status 429, the share
    answered within the deadline of 10 s. Memory: of the server's processes, engines left out; after
    the minute less that after 10 s.
    """
    demo = demo_judge(run)
    bodies = [{**body_of(pair), "votes": VOTES, "temperature": 1.0} for pair in demo.pairs[:256]]
    settings = f"serve.deadline={DEADLINE:g}", f"serve.max_in_flight={SLOTS}"
    with served(demo.model, *settings) as (address, process):
        return asyncio.run(load(address, process, bodies))


async def load(address: str, process: int, bodies: list[Any]) -> dict[str, float]:
    """The figures of a server at ``address`` whose processes are ``process`` and all below it."""
    async with client(address, 0) as compare:
        asked = [bodies[number % len(bodies)] for number in range(2 * SLOTS)]
        await in_flight(compare, asked[:SLOTS], SLOTS)
        started = time.perf_counter()
        await in_flight(compare, asked, SLOTS)
        capacity = len(asked) / (time.perf_counter() - started)
        statuses: Counter[int] = Counter()
        waits: list[float] = []
        early = 0

        async def one(body: Any) -> None:
            begun = time.perf_counter()
            status, _ = await compare(body)
            statuses[status] += 1
            if status == 200:
                waits.append(time.perf_counter() - begun)

        tasks: set[asyncio.Task[None]] = set()
        begun, sent = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < SECONDS:
            for _ in range(int(TIMES * capacity * elapsed) - sent):
                tasks.add(task := asyncio.create_task(one(bodies[sent % len(bodies)])))
                task.add_done_callback(tasks.discard)
                sent += 1
            if not early and elapsed > SECONDS / 6:
                early = _memory(process)
            await asyncio.sleep(0.005)
        late = _memory(process)
        await asyncio.gather(*tasks)
        status, _ = await compare(bodies[0])
    accepted = sum(statuses.values()) - statuses[429]
    met = sum(wait <= DEADLINE for wait in waits)
    return {
        "serve_shed": met / accepted,
        "serve_shed_capacity_per_second": capacity,
        "serve_shed_offered_per_second": sent / SECONDS,
        "serve_shed_accepted_per_second": accepted / SECONDS,
        "serve_shed_median_seconds": statistics.median(waits),
        "serve_shed_failed": accepted - statuses[200],
        "serve_shed_memory_growth_mb": (late - early) / 2**20,
        "serve_shed_answers_afterwards": float(status == 200),
    }


def _memory(process: int) -> int:
    """Resident bytes of a process and all below it but engines, which take their cache's memory as it is first used."""
    total = 0
    for one in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += 0 if is_engine(one) else one.memory_info().rss
    return total
