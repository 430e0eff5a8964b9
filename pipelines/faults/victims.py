"""The processes of a run on this machine, found from outside: by the run's log files that they write to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from actors.processes import is_engine_core, titled
from actors.shared_memory import FOLDER, mapped_by
from pipelines.faults.draws import DrawnFault

# Part -> the log that its process writes to, and whether a process is it.
_FOUND_BY = {
    "engine core": ("rollout-{}.log", is_engine_core),
    "rollout worker": ("rollout-{}.log", titled("ray::RolloutWorker")),
    "verifier": ("verifier.log", titled("ray::RewardVerifier")),
    "learner rank": ("learner-{}.log", titled("ray::Learner")),
}
# Ray's own processes, which a driver with a cluster of its own starts, by their programs.
_RAYS = {"raylet": "raylet", "GCS": "gcs_server"}
_ENDING_SECONDS = 90.0
"""For processes to end after the run; Ray's own agents look for their parent now and then."""


def victim(fault: DrawnFault, logs: Path, driver: int) -> psutil.Process | None:
    """The process that a fault strikes; None where it is not there now, or stopped already."""
    if fault.part == "driver":
        return psutil.Process(driver)
    if fault.part in _RAYS:
        candidates: Iterable[psutil.Process] = _below(driver)
        is_it = _runs(_RAYS[fault.part])
    else:
        log, is_it = _FOUND_BY[fault.part]
        candidates = writers(logs / log.format(fault.member))
    for process in candidates:
        with suppress(psutil.Error):
            if is_it(process) and process.status() not in ("stopped", "zombie", "dead"):
                return process
    return None


def _runs(program: str) -> Callable[[psutil.Process], bool]:
    return lambda process: process.name() == program


def _below(process: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(process).children(recursive=True)
    return []


def writers(place: Path) -> Iterator[psutil.Process]:
    """Processes whose standard error is this file, or a file in this folder."""
    wanted = os.path.realpath(place)
    for entry in Path("/proc").glob("[0-9]*"):
        # What has ended meanwhile, or is another user's, is not ours.
        with suppress(OSError, psutil.Error):
            written = os.readlink(entry / "fd" / "2")
            if written == wanted or os.path.dirname(written) == wanted:
                yield psutil.Process(int(entry.name))


class Traces:
    """What a run has on this machine: processes, and the names in shared memory that they use."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: set[psutil.Process] = set()
        self._names: set[str] = set()

    def look(self, driver: int) -> None:
        """Remember what is there now: what the driver started, and what writes to the run's logs."""
        self._processes |= {*_below(driver), *writers(self._logs)}
        self._names |= mapped_by(self._processes)

    def end(self) -> None:
        """Kill what is left of the run; processes that were seen here, and no others."""
        for process in self._processes | set(writers(self._logs)):
            with suppress(psutil.Error):
                process.kill()

    def left_behind(self, weights: str, seconds: float = _ENDING_SECONDS) -> list[str]:
        """What is still there ``seconds`` after the run, in words; ``weights`` is its folder in shared memory."""
        _, alive = psutil.wait_procs(list(self._processes), timeout=seconds)
        left = {f"process {process.pid} ({_title(process)})" for process in {*alive, *writers(self._logs)}}
        if there := (self._names | {weights}) & set(os.listdir(FOLDER)):
            left |= {f"{FOLDER}/{name}" for name in there - mapped_by(psutil.process_iter())}
        return sorted(left)


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:80] or process.name()
    return "ended"
