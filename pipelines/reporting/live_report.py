"""``report.html`` while a run goes: the same page, rewritten after steps, so that it can be opened at any time.

What a process that was killed leaves is the page as it was last written: a page appears whole or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from actors.redaction import redact
from pipelines.reporting.run_report import write_report

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
"""How old the page may become where nothing of note happens."""
COST = 0.05
"""Largest share of a run's time that is spent on it."""


class LiveReport:
    """Writes the page of a run's folder by schedule. A page that cannot be written is warned of; the run goes on."""

    def __init__(self, run_directory: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._directory = run_directory
        self._now = now
        self._written: float | None = None
        self._took = 0.0

    def after_step(self, of_note: bool) -> None:
        """Write the page if it is due: ``of_note`` are evaluations and checkpoints, other steps wait a minute."""
        if self._is_due(of_note):
            self.write()

    def _is_due(self, of_note: bool) -> bool:
        if self._written is None:
            return True
        since = self._now() - self._written
        return since >= self._took * (1 / COST - 1) and (of_note or since >= EVERY_SECONDS)

    def write(self) -> None:
        """Write the page now."""
        began = self._now()
        try:
            write_report(self._directory, under_way=True)
        except Exception as error:
            log.warning("report.html cannot be written while the run goes (%s)", redact(str(error)))
        self._written = self._now()
        self._took = self._written - began
