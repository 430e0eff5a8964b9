"""What the replicas of a real server say of themselves, whichever of them a request comes to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


def health(address: str) -> dict[int, dict[str, Any]]:
    """The answers of replicas by their numbers. Many ask at once: one request after the other would always go to the
    least busy one. Whom none came to, or is ill, is missing.
    """
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=12)) as http, ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda _: http.get(f"{address}/health"), range(12)))
    return {reply.json()["replica"]: reply.json() for reply in replies if reply.status_code == 200}


def unfinished(address: str, replicas: int = 2) -> int | None:
    """Judgments that all engines together write or have waiting; None where not all were met."""
    met = health(address)
    return sum(answer["unfinished"] for answer in met.values()) if len(met) == replicas else None
