"""What is counted for Prometheus, by all processes of a server together: replicas, and Ray Serve's proxy before them.

Whichever replica is asked for ``/metrics`` answers for all of them: counts of one at a time would jump between replicas
from scrape to scrape, which Prometheus takes for restarts. The sharing is prometheus_client's own multiprocess mode.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead


class Metrics:
    """What this process counts; see ``/metrics``."""

    def __init__(self, folder: str | None = None) -> None:
        """``folder``: where all processes of a server count, of whatever machine; None: this one counts alone."""
        if folder is not None:
            _share(folder)
        self._folder = folder
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("judge_requests", "By route and status", ["route", "status"], registry=registry)
        self._seconds = Histogram("judge_request_seconds", "From request to answer", ["route"], registry=registry)
        self._tokens = Counter("judge_tokens", "Read and written for answers", ["kind"], registry=registry)
        self.in_flight = Gauge(
            "judge_requests_in_flight", "Requests being answered", registry=registry, multiprocess_mode="livesum"
        )

    def record(self, route: str, status: int, seconds: float) -> None:
        """Count one request that was answered."""
        self.count(route, status)
        self._seconds.labels(route).observe(seconds)

    def count(self, route: str, status: int) -> None:
        """Count one request without its time, as one that was refused before anything was done for it."""
        self._requests.labels(route, status).inc()

    def count_tokens(self, usage: Mapping[str, int]) -> None:
        """Count the tokens of one answer."""
        for kind in ("prompt", "completion"):
            self._tokens.labels(kind).inc(usage[f"{kind}_tokens"])

    def text(self) -> bytes:
        """Of all processes together, as Prometheus reads them. Those that have ended leave their counts."""
        if self._folder is None:
            return generate_latest(self._registry)
        _forget_what_ended(Path(self._folder))
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._folder)
        return generate_latest(together)


def _share(folder: str) -> None:
    """Let what is counted from now on be read by other processes: in ``folder``, under this process's name."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    # The library decides by this variable when it is imported, which other libraries do before.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: f"{_host()}.{os.getpid()}")


def _forget_what_ended(folder: Path) -> None:
    """What a process of this machine was at when it ended is not going on."""
    for file in folder.glob(f"gauge_live*_{_host()}.*.db"):
        name = file.stem.rpartition("_")[2]
        if not psutil.pid_exists(int(name.rpartition(".")[2])):
            mark_process_dead(name, str(folder))


def _host() -> str:
    # The library cuts names of files at the underscore.
    return socket.gethostname().replace("_", "-")
