"""Settings of the server of a judge."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.constraints import FILE, location, number
from pipelines.config.judging import Judging


@dataclass
class Serving(Judging):
    """A judge behind HTTP. ``orders``, ``votes`` and ``temperature`` are those of a request that names none."""

    host: str = "127.0.0.1"
    """Address to listen at; one that other machines reach needs ``keys``."""
    port: int = number(8000, at_least=1, at_most=65535)
    keys: str | None = location(None, FILE)
    """File of bearer keys, one a line, readable by its owner alone; null: none are asked for, on loopback only."""
    replicas: int = number(1, at_least=1)
    """Processes that take requests, each with an engine of its own."""
    max_in_flight: int = number(64, at_least=1)
    """Requests a replica works on at the same time; more are refused with status 429."""
    max_body_mib: float = number(8.0, above=0)
    max_votes: int = number(16, at_least=1)
    max_responses: int = number(64, at_least=2)
    """Of one ranking."""
    deadline: float = number(600.0, above=0)
    """Seconds for one request; then its status is 504."""
