"""One run under faults: submitted as a command, struck from outside, submitted again where its driver was killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.files import remove_whole
from actors.jsonl import lines_of
from actors.learner.manifest import latest
from pipelines.faults.draws import Action, DrawnFault
from pipelines.faults.story import Story, said_in
from pipelines.faults.victims import Traces, victim

_EVERY_SECONDS = 0.2
_LOOK_SECONDS = 3.0
_TAIL = 4000
"""Characters of a run's output that a failure shows at most."""
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Submission:
    """A run as somebody submits it: always by the same command."""

    stage: str
    """``run``, or another command of a recipe's."""
    name: str
    root: Path
    settings: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.root / self.name

    @property
    def output(self) -> Path:
        """What the run writes to its terminal."""
        return self.root / f"{self.name}.{self.stage}.out"

    @property
    def command(self) -> list[str]:
        """The command."""
        own = (f"run={self.name}", f"output_root={self.root}")
        return [sys.executable, "-m", f"pipelines.{self.stage}", *self.settings, *own]


class Trial:
    """A run, from its first submission to its end."""

    def __init__(
        self,
        submission: Submission,
        faults: Sequence[DrawnFault] = (),
        *,
        step_seconds: float = 0.0,
        seconds: float,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        """``step_seconds`` is what a step takes without faults; after ``seconds`` the run counts as hung."""
        self.story = Story()
        self.submission = submission
        self.traces = Traces(submission.folder / "logs")
        self._to_come = deque(faults)
        self._step_seconds = step_seconds
        self._seconds = seconds
        self._tell = tell
        self._driver: subprocess.Popen[bytes] | None = None
        self._was_killed = False
        self._lost = ""
        """What the driver has lost and cannot go on without: ``Ray``, ``disk``; its end says so."""
        self._damaged: Path | None = None
        self._log_read = 0
        self._output_begins = 0
        self._stepped = 0.0
        """When the number of logged steps last changed."""

    def run(self) -> str | None:
        """Run to the end; returns why the run ended although it should have gone on, None where it is finished."""
        try:
            return self._run()
        finally:
            if self._driver is not None and self._driver.poll() is None:
                self.traces.look(self._driver.pid)
                # With its whole group: what it is just starting writes to no log yet, and is not seen by its log.
                os.killpg(self._driver.pid, signal.SIGKILL)
                self._driver.wait()
                self.traces.end()

    def _run(self) -> str | None:
        self._submit()
        assert self._driver is not None
        begun, looked = time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            self._listen(now)
            status = self._driver.poll()
            self._keep_output()
            if status is not None:
                if status == 0:
                    return None
                if not self._goes_on(status, now):
                    return f"ended with status {status}, though it should have gone on: {self._places()}"
                self._submit()
            if now - begun > self._seconds:
                return f"did not come to its end within {self._seconds:.0f} s, so it hangs: {self._places()}"
            if now - looked > _LOOK_SECONDS:
                self.traces.look(self._driver.pid)
                looked = now
            if self._to_come and self._is_due(self._to_come[0], now) and self._strike(self._to_come[0], now):
                self._to_come.popleft()
            time.sleep(_EVERY_SECONDS)

    def _submit(self) -> None:
        self.submission.root.mkdir(parents=True, exist_ok=True)
        with self.submission.output.open("ab") as output:
            self._output_begins = output.tell()
        self._driver = subprocess.Popen(
            self.submission.command,
            env={**os.environ, "COLUMNS": "150"},
            stdin=subprocess.DEVNULL,
            # Not the file itself: a driver that may write to no file still has a terminal.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._driver.stdout is not None
        os.set_blocking(self._driver.stdout.fileno(), False)

    def _keep_output(self) -> None:
        """Write down what the run has said since the last time; its actors' processes may hold the pipe for longer."""
        assert self._driver is not None
        assert self._driver.stdout is not None
        if said := self._driver.stdout.read():
            with self.submission.output.open("ab") as output:
                output.write(said)

    def _goes_on(self, status: int, now: float) -> bool:
        """Whether the end of the driver is what was done to it, or the refusal of what was damaged; then as told."""
        if self._was_killed:
            self._was_killed = False
            return status == -signal.SIGKILL
        lost, self._lost = self._lost, ""
        if lost:
            self.story.said_by_its_end(now)
            return "Traceback" not in self.said_last() and (lost == "Ray" or "ulimit -f" in self.said_last())
        damaged, self._damaged = self._damaged, None
        if (
            damaged is None
            or f"{damaged.name}: " not in self.said_last()
            or "Remove that folder" not in self.said_last()
        ):
            return False
        remove_whole(damaged)
        self.story.said_by_its_end(now)
        self._tell(f"{damaged.name} was refused by name, removed as the message says, and the run submitted again")
        return True

    def _listen(self, now: float) -> None:
        log = self.submission.folder / "logs" / "driver.log"
        if log.exists():
            with log.open("rb") as file:
                file.seek(self._log_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._log_read += len(whole) + len(newline)
            for line in whole.decode("utf-8", errors="replace").splitlines():
                if said := said_in(line):
                    self.story.said(said, now)
                    self._tell(line.partition(": ")[2])
        if (steps := len(rl_rows(self.submission.folder))) != self.story.steps:
            self._stepped = now
            self.story.logged(steps, now)

    def _is_due(self, fault: DrawnFault, now: float) -> bool:
        if self.story.waits_for_driver:
            return False
        if fault.shortly is not None and self.story.faults:
            return now >= self.story.faults[-1].struck + fault.shortly
        before = int(fault.at)
        if self.story.steps != before:
            return self.story.steps > before
        return now >= self._stepped + (fault.at - before) * self._step_seconds

    def _strike(self, fault: DrawnFault, now: float) -> bool:
        """Apply a fault; False where what it strikes is not there at the moment."""
        assert self._driver is not None
        if fault.action in ("kill", "damage") and fault.part in ("driver", "newest checkpoint"):
            if fault.action == "damage":
                newest = latest(self.submission.folder / "checkpoints" / "rl")
                if newest is None:
                    return False
                self._damaged = newest
                damage(newest)
            self._driver.kill()
            self._was_killed = True
        else:
            process = victim(fault, self.submission.folder / "logs", self._driver.pid)
            if process is None:
                return False
            if fault.action in _SIGNALS:
                process.send_signal(_SIGNALS[fault.action])
            else:
                give_no_more(process, fault.action)
            if fault.ends_by_itself:
                self._lost = "disk" if fault.action == "no disk" else "Ray"
        self.story.struck(fault, now)
        self._tell(f"after step {self.story.steps}: {fault.action} {fault.victim}")
        return True

    def said_last(self) -> str:
        """What the run wrote to its terminal since it was submitted last, its end if that is long."""
        with self.submission.output.open("rb") as output:
            output.seek(self._output_begins)
            return " ".join(output.read().decode("utf-8", errors="replace").split())[-_TAIL:]

    def _places(self) -> str:
        return f"see {self.submission.output} and {self.submission.folder}/logs"

    def left_behind(self) -> list[str]:
        """What the run has left on this machine, in words; processes are ended then."""
        digest = hashlib.sha256(str(self.submission.folder.resolve()).encode()).hexdigest()[:12]
        left = self.traces.left_behind(f"reasoning-reward-models-{digest}")
        self.traces.end()
        return left


def give_no_more(process: psutil.Process, of: Action) -> None:
    """Refuse a process what it does not have yet: memory, or writing to files."""
    if of == "no memory":
        now = process.memory_info().vms
        process.rlimit(psutil.RLIMIT_AS, (now, now))
    else:
        process.rlimit(psutil.RLIMIT_FSIZE, (0, 0))


def damage(checkpoint: Path) -> Path:
    """Change bytes in the midst of a checkpoint's largest file, whose size stays; returns the file."""
    file = max(checkpoint.glob("*.distcp"), key=lambda each: each.stat().st_size)
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        there = opened.read(16)
        opened.seek(-len(there), os.SEEK_CUR)
        opened.write(bytes(byte ^ 0xFF for byte in there))
    return file


def rl_rows(folder: Path) -> list[Mapping[str, Any]]:
    """A run's ``rl`` lines of ``metrics.jsonl``, without one that is being written."""
    rows = []
    for _, line in lines_of(folder / "metrics.jsonl"):
        if line.endswith(b"\n"):
            row = json.loads(line)
            if row["stage"] == "rl":
                rows.append(row)
    return rows
