"""One stage's numbers, written to the run's own file first and to Weights & Biases beside it.

``metrics.jsonl`` is the record: every number goes there, whatever becomes of W&B. W&B is a guest. It starts under a
deadline, falls back to offline files with a warning, and an error of its own ends the tracking on W&B, never the run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.jsonl import JsonLines
from actors.redaction import redact
from pipelines.reporting.wandb_mode import Mode, resolve_mode, server_hosts

log = logging.getLogger(__name__)

TRACE_COLUMNS: tuple[str, ...] = (
    "stage",
    "step",
    "pair_id",
    "order",
    "domain",
    "question",
    "response_a",
    "response_b",
    "label",
    "sample",
    "text",
    "verdict",
    "cause",
    "reward",
    "tokens",
    "finish_reason",
    "min_version",
    "max_version",
)
"""Columns of ``traces/*.parquet`` and of the W&B table of traces. ``verdict`` is a letter or null."""

_TABLE_ROWS = 64
"""Traces of one step that are copied to W&B; the parquet files hold them all."""


def plain_numbers(value: Any) -> Any:
    """``value`` as data every JSON reader accepts.

    NumPy and torch scalars become Python numbers; NaN and the infinities become the strings ``NaN``, ``Infinity`` and
    ``-Infinity``, which ``float()`` and JavaScript's ``Number()`` both read back.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if not isinstance(value, float) and hasattr(value, "item"):
        return plain_numbers(value.item())
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class Tracker:
    """The numbers of one stage: ``metrics.jsonl`` always, W&B by mode.

    Every run is a W&B group and every stage one W&B run in it, whose metrics are named ``<stage>/<name>`` and drawn
    over ``<stage>/step``. That axis is our own, because a stage that is resumed repeats the steps after its last
    checkpoint, and W&B's own step may not go back. A resumed stage passes the :attr:`wandb_id` it had before.
    Offline, a resumed stage writes a second folder under the same id; ``wandb sync --append`` joins them.

    Raises:
        ValueError: the mode is unknown.
        OSError: ``metrics.jsonl`` cannot be written.
    """

    def __init__(
        self,
        run_directory: str | Path,
        stage: str,
        config: Mapping[str, Any],
        mode: str = "auto",
        project: str = "reasoning-reward-models",
        group: str | None = None,
        resume_id: str | None = None,
        *,
        entity: str | None = None,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
    ) -> None:
        self._stage = stage
        self._directory = Path(run_directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run: Any = None
        self.wandb_id = resume_id
        """The W&B run's id, to be stored by the stage and passed in when it continues; None if there never was one."""
        self.mode: Mode = resolve_mode(
            mode, os.environ, Path.home(), server_hosts() if mode in ("auto", "online") else ()
        )
        """What W&B does now; changes to offline when going online failed, to disabled after an error."""
        self._file = JsonLines(self._directory / "metrics.jsonl")
        if self.mode != "disabled":
            self.wandb_id = resume_id or secrets.token_hex(4)
            self._entity = entity
            self._start(dict(config), project, group or self._directory.name, init_timeout, finish_timeout)

    def _start(
        self, config: dict[str, Any], project: str, group: str, init_timeout: float, finish_timeout: float
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            self._give_up("starting", error)
            return

        def start(mode: Mode) -> Any:
            return wandb.init(
                entity=self._entity,
                project=project,
                group=group,
                job_type=self._stage,
                name=f"{group}-{self._stage}",
                id=self.wandb_id,
                # Offline, W&B ignores `resume` and says so on the terminal.
                resume="allow" if mode == "online" else None,
                dir=str(self._directory),
                config=json.loads(redact(json.dumps(plain_numbers(config)))),
                mode=mode,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=init_timeout,
                    login_timeout=init_timeout,
                    finish_timeout=finish_timeout,
                ),
            )

        # W&B prefixes the folder with a dot unless `wandb/` is there already.
        (self._directory / "wandb").mkdir(exist_ok=True)
        try:
            wandb.setup(wandb.Settings(silent=True))
            if self.mode == "online":
                try:
                    self._run = start("online")
                except Exception as error:
                    log.warning("W&B: going online failed (%s), so this stage is tracked offline", _one_line(error))
                    # Its service process still holds the id.
                    wandb.teardown(exit_code=0)
                    self.mode = "offline"
            if self._run is None:
                self._run = start("offline")
            self._run.define_metric(f"{self._stage}/step")
            self._run.define_metric(f"{self._stage}/*", step_metric=f"{self._stage}/step")
        except Exception as error:
            self._give_up("starting", error)

    def reopen(self) -> None:
        """Write on to ``metrics.jsonl`` as it is now: lines of it were taken out."""
        self._file.close()
        self._file = JsonLines(self._directory / "metrics.jsonl")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the numbers of one step, by their names without the stage: one JSON line, and one W&B row.

        The line is ``{"stage", "step", "time", "metrics"}`` with ``time`` in seconds since 1970.
        """
        metrics = plain_numbers(metrics)
        line = {"stage": self._stage, "step": int(step), "time": round(time.time(), 3), "metrics": metrics}
        self._file.append(line)
        # W&B draws NaN as a gap and takes it as a number; a string would change the column's type.
        row = {f"{self._stage}/{name}": _as_float(value) for name, value in metrics.items()}
        self._guest("logging", lambda run: run.log({**row, f"{self._stage}/step": int(step)}))

    def log_traces(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show traces of one step as a W&B table: the columns of :data:`TRACE_COLUMNS`, the first 64 rows.

        A column a row lacks is empty. The parquet files, which hold every trace, are the pipeline's to write.
        """

        def send(run: Any) -> None:
            import wandb

            data = [[plain_numbers(row.get(column)) for column in TRACE_COLUMNS] for row in rows[:_TABLE_ROWS]]
            table = wandb.Table(columns=list(TRACE_COLUMNS), data=data, allow_mixed_types=True)
            run.log({f"{self._stage}/traces": table, f"{self._stage}/step": int(step)})

        if rows:
            self._guest("logging traces", send)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table on W&B, as ``<stage>/<name>``; cells are numbers, text or None."""

        def send(run: Any) -> None:
            import wandb

            data = [[plain_numbers(cell) for cell in row] for row in rows]
            run.log({f"{self._stage}/{name}": wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)})

        if rows:
            self._guest(f"logging the table {name}", send)

    def alert(self, title: str, text: str) -> None:
        """Tell the run's owner through W&B what a person must look at."""
        text = redact(text)
        self._guest("alerting", lambda run: run.alert(title=title, text=text, level="WARN", wait_duration=0))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the stage's final numbers on its W&B run; nested mappings are allowed."""
        self._guest("writing the summary", lambda run: run.summary.update(plain_numbers(values)))

    def finish(self, exit_code: int = 0) -> None:
        """Close the file and the W&B run; a non-zero code marks the W&B run as failed. May be called twice."""
        self._file.close()
        self._guest("finishing", lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(exit_code=0 if kind is None else 1)

    def _guest(self, doing: str, call: Callable[[Any], object]) -> None:
        """Make one call of W&B; if it fails, go on without W&B."""
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._give_up(doing, error)

    def _give_up(self, doing: str, error: Exception) -> None:
        # Before the warning, which would itself be an alert.
        self._run = None
        self.mode = "disabled"
        log.warning(
            "W&B: %s failed (%s); %s goes on without it, with every number in %s",
            doing,
            _one_line(error),
            self._stage,
            self._directory / "metrics.jsonl",
        )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(redact(str(error)).split())[:300]}"


def _as_float(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
