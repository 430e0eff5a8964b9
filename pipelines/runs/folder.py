"""The folder of one run: where everything lies, who may write there, and what of it is finished.

    outputs/<run>/
      .lock  .id  config.yaml  summary.json  metrics.jsonl  report.html
      data/  model/             what `prepare` made
      chains/                   what `chains` made, and the journal of every answer that was paid for
      distill/hf  rl/hf         exported models
      checkpoints/<stage>/      to continue from
      stages/<stage>.json       notes of a stage, and that it is finished
      traces/  logs/  wandb/

Files are written under a temporary name and renamed when whole, so that whatever has its final name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from actors.errors import UserError, machine_fault
from actors.files import atomic_path, clean_leftovers, remove_whole, sha256_file, write_text
from actors.jsonl import keep_rows, lines_of, row_of
from pipelines.runs.catalogue import STAGES, StageRecord, with_dependents
from pipelines.runs.lock import FolderBusy, FolderLock

if TYPE_CHECKING:
    from pipelines.config import Config


class RunDirectoryError(UserError, RuntimeError):
    """The run's folder cannot be used as it is; says what to do."""


class RunDirectoryBusy(RunDirectoryError):
    """Another live process writes to the run's folder; names it."""


class StageMissing(RunDirectoryError):
    """What an earlier stage should have left is not there; names the command that makes it."""


class RunDirectory:
    """``<root>/<name>``. Enter it to write there: ``with RunDirectory("outputs", "tiny") as run: ...``.

    Entering takes a lock that ends with this process, however it ends, and clears what an interrupted one left half
    done. Reading needs no lock. ``recipe`` is only for the commands that error messages name.
    """

    def __init__(self, root: str | Path, name: str, recipe: str | None = None) -> None:
        self.name = name
        self.shown = Path(root) / name
        """As the user gave it, for messages."""
        self.path = Path(os.path.abspath(self.shown))
        self._root = Path(root)
        self._recipe = recipe
        self._lock = FolderLock(self.path, str(self.shown))

        self.config_file = self.path / "config.yaml"
        self.summary_file = self.path / "summary.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.report_file = self.path / "report.html"
        self.data = self.path / "data"
        self.chains = self.path / "chains"
        self.model = self.path / "model"
        self.traces = self.path / "traces"
        self.logs = self.path / "logs"
        self.wandb = self.path / "wandb"

    def checkpoints(self, stage: str) -> Path:
        """Root of a stage's checkpoints."""
        return self.path / "checkpoints" / stage

    def journal(self, stage: str) -> Path:
        """Folder of what a stage got from engines since its last checkpoint."""
        return self.path / stage / "journal"

    def export_directory(self, stage: str) -> Path:
        """Where a stage leaves its model in Hugging Face format."""
        return self.path / stage / "hf"

    def heldout_file(self, row: str) -> Path:
        """Where the judgments behind a row of held-out figures go; ``row`` is its key in ``summary.json``."""
        return self.traces / f"heldout-{row}.parquet"

    def trace_file(self, stage: str, part: str, step: int) -> Path:
        """Where traces of one step go; ``part`` tells apart what a stage writes at one step (``rollouts``, ...)."""
        return self.traces / f"{stage}-{part}-{step:06d}.parquet"

    # The lock

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, make the folder, clear leftovers.

        Raises:
            RunDirectoryBusy: another live process holds the lock, or this one does already.
            RunDirectoryError: the folder cannot be made, because a file is in its way for example.
            MachineFault: the machine refuses the folder or the lock.

        """
        try:
            self._lock.acquire()
            self._clear()
        except FolderBusy as error:
            raise RunDirectoryBusy(f"{error}: wait for it or end it, or choose another name with RUN=...") from error
        except OSError as error:
            self.release()
            raise machine_fault(error, self.shown) or RunDirectoryError(
                f"{self.shown} cannot be made a folder ({error.strerror}: {error.filename}): "
                "choose another output_root or run name"
            ) from error
        except BaseException:
            self.release()
            raise

    def _clear(self) -> None:
        made = [self.path / name for stage in STAGES.values() for name in stage.leaves]
        made += [path.parent for path in made] + [self.checkpoints(stage) for stage in STAGES]
        for folder in {self.path, self.traces, self.path / "stages", *made}:
            clean_leftovers(folder)
        self.logs.mkdir(exist_ok=True)
        self.traces.mkdir(exist_ok=True)

    @property
    def identity(self) -> str:
        """What no other run of a cluster is called, however often this one is continued. Made where it is not there.

        Of the path and of a number in the folder, because a path may be one folder on this machine and another
        elsewhere, and a folder may be copied.
        """
        file = self.path / ".id"
        if not file.exists():
            write_text(file, f"{secrets.token_hex(8)}\n")
        return hashlib.sha256(f"{self.path.resolve()}\n{file.read_text(encoding='utf-8')}".encode()).hexdigest()[:16]

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    # Writing

    def write_json(self, path: Path, value: Any) -> None:
        """Write a JSON file at once or not at all.

        Raises:
            ValueError: the value holds NaN or infinity, which JSON has no word for.

        """
        write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_parquet(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as a parquet table at once or not at all.

        A column without any value is stored as text, so that every file of one kind has the same schema.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([dict(row) for row in rows])
        for index, column in enumerate(table.schema):
            if pa.types.is_null(column.type):
                table = table.set_column(index, column.name, table.column(index).cast(pa.string()))
        with atomic_path(path) as partial:
            pq.write_table(table, partial, compression="zstd")

    # Stages

    def notes(self, stage: str) -> dict[str, Any]:
        """What a stage noted about itself; empty when it has not begun."""
        return self._read_json(self._stage_file(stage))

    def note(self, stage: str, **values: Any) -> None:
        """Add to a stage's notes, for example the id of its W&B run."""
        self.write_json(self._stage_file(stage), self.notes(stage) | values)

    def mark_finished(self, stage: str) -> None:
        """Note that a stage is complete."""
        self.note(stage, finished=round(time.time(), 3))

    def finished(self, stage: str) -> bool:
        """Whether a stage is complete."""
        return bool(self.notes(stage).get("finished"))

    def require(self, path: Path, what: str, stage: str) -> Path:
        """``path``, which ``stage`` makes.

        Raises:
            StageMissing: it is not there; names the command to run first.

        """
        if not path.exists():
            raise StageMissing(
                f"{self.shown} has no {what} ({path.relative_to(self.path)}): run `{self.command(stage)}` first"
            )
        return path

    def command(self, stage: str) -> str:
        """The command that runs a stage in this folder."""
        recipe = f" RECIPE={self._recipe}" if self._recipe and self._recipe != "tiny" else ""
        root = f" ARGS=output_root={self._root}" if str(self._root) != "outputs" else ""
        return f"make {stage}{recipe} RUN={self.name}{root}"

    def start_over(self, stage: str) -> None:
        """Remove what a stage and those that build on it made, so that it begins from nothing; the last goes first."""
        for record in with_dependents(stage):
            self._stage_file(record.name).unlink(missing_ok=True)
            if record.judged:
                self.report_file.unlink(missing_ok=True)
            for path in (self.checkpoints(record.name), *(self.path / name for name in record.leaves)):
                remove_whole(path)
            for file in self._trace_files(record):
                file.unlink()
            self._rewrite_metrics(record.name, -1)
            before = self.summary()
            summary = {key: value for key, value in before.items() if key not in (*record.summary, *record.judged)}
            if record.name in summary.get("seconds", {}):
                summary["seconds"] = {key: value for key, value in summary["seconds"].items() if key != record.name}
            if summary != before:
                self.write_json(self.summary_file, summary)

    def rewind(self, stage: str, step: int) -> int:
        """Forget numbers and traces of a stage after ``step``, which will be made again. Returns the lines dropped.

        A last line that an interrupted process left torn goes too.
        """
        for file in self._trace_files(STAGES[stage]):
            match = re.fullmatch(r".*-(\d+)", file.stem)
            if match and int(match[1]) > step:
                file.unlink()
        return self._rewrite_metrics(stage, step)

    def last_step(self, stage: str) -> int:
        """The last step of a stage whose numbers were written; 0: none yet."""
        rows = [row_of(line) for _, line in lines_of(self.metrics_file) if line.endswith(b"\n")]
        return max((row["step"] for row in rows if row["stage"] == stage), default=0)

    def _trace_files(self, record: StageRecord) -> list[Path]:
        return [file for pattern in record.traces() for file in self.traces.glob(pattern)]

    def _rewrite_metrics(self, stage: str, step: int) -> int:
        return keep_rows(self.metrics_file, lambda row: _keeps(row, stage, step))

    # The summary, and what stages find

    def summary(self) -> dict[str, Any]:
        """Contents of summary.json; empty before the first stage wrote to it."""
        return self._read_json(self.summary_file)

    def update_summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Set top-level keys of summary.json; ``seconds`` and ``data`` are merged, not replaced. Returns the whole."""
        summary = self.summary()
        for key, value in values.items():
            summary[key] = summary.get(key, {}) | value if key in ("seconds", "data") else value
        self.write_json(self.summary_file, summary)
        return summary

    def base_model(self, config: Config) -> str:
        """The model training starts from: ``model.path``, or the one `prepare` built."""
        return config.model.path or str(self.require(self.model, "base model", "prepare"))

    def starting_policy(self, config: Config) -> str:
        """The model RL starts from: ``rl.policy``, the distilled model, or the base model of a recipe without one."""
        if config.rl.policy:
            return config.rl.policy
        if not config.rl.distil_first:
            return self.base_model(config)
        return str(self.require(self.export_directory("distill"), "distilled model", "distill"))

    def model_to_judge(self, config: Config) -> tuple[str, str]:
        """A model to evaluate and the summary row it belongs to: ``evaluate.model``, or the last one the run has."""
        if config.evaluate.model:
            return config.evaluate.model, "evaluate"
        for stage in reversed(STAGES):
            if self.export_directory(stage).exists():
                return str(self.export_directory(stage)), stage
        return self.base_model(config), "before"

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file in data/, by file name without suffix."""
        return {file.stem: sha256_file(file) for file in sorted(self.data.glob("*")) if file.is_file()}

    def _stage_file(self, stage: str) -> Path:
        if stage not in STAGES:
            raise ValueError(f"{stage!r} is not a stage: {', '.join(STAGES)}")
        return self.path / "stages" / f"{stage}.json"

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise RunDirectoryError(f"{path} cannot be read ({error}): mend or remove it") from error
        if not isinstance(value, dict):
            raise RunDirectoryError(f"{path} does not hold a JSON object: mend or remove it")
        return value


def _keeps(row: Any, stage: str, step: int) -> bool:
    """Whether a row of metrics.jsonl stays: it is of another stage, or not after ``step``."""
    try:
        return not (row["stage"] == stage and row["step"] > step)
    except (KeyError, TypeError):
        return False
