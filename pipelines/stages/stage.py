"""What every stage does around its work: open its run, refuse other settings, record its result, finish."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from actors.files import write_text
from actors.learner.group import LearnerGroup
from actors.learner.manifest import latest, refuse_incomplete
from actors.logs import LogFile, LogFormatter
from actors.redaction import redact
from pipelines.config import Config, ConfigError, known_keys
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.metrics import summarise
from pipelines.job.session import Session
from pipelines.loop.records import judgment_rows
from pipelines.planning.check import refuse_what_does_not_fit
from pipelines.reporting.console import Console, StageProgress
from pipelines.reporting.model_card import write_model_cards
from pipelines.reporting.run_report import write_report
from pipelines.reporting.tracking import Tracker
from pipelines.runs.catalogue import STAGES
from pipelines.runs.folder import RunDirectory
from pipelines.stages.contents import Content, changes, contents
from pipelines.stages.inputs import JudgingTask

log = logging.getLogger(__name__)


class Stage:
    """One stage of one run while it runs."""

    def __init__(self, config: Config, run: RunDirectory, name: str, console: Console) -> None:
        self.config = config
        self.run = run
        self.name = name
        self.console = console
        self.is_finished = False
        self._tracker: Tracker | None = None
        self._started = time.monotonic()
        self.seconds_before = 0.0
        """Time that earlier, interrupted runs spent on what this one continues."""

    @property
    def tracker(self) -> Tracker:
        """Metrics of this stage; opened when they are first needed, with the W&B id a checkpoint remembers."""
        if self._tracker is None:
            tracking = self.config.tracking
            self._tracker = Tracker(
                self.run.path,
                self.name,
                asdict(self.config),
                tracking.wandb,
                tracking.project,
                self.config.run,
                self.run.notes(self.name).get("wandb_id"),
                entity=tracking.entity,
            )
            self.run.note(self.name, wandb_id=self._tracker.wandb_id)
        return self._tracker

    def rewind(self, step: int) -> None:
        """Forget numbers and traces after ``step``, which will be made again."""
        self.run.rewind(self.name, step)
        if self._tracker is not None:
            self._tracker.reopen()

    def seconds(self) -> float:
        """Time spent on this stage, that of earlier, interrupted runs included."""
        return self.seconds_before + time.monotonic() - self._started

    def warn(self, message: str) -> None:
        """Say on the terminal, and later in the report, what needs attention."""
        message = redact(message)
        self.console.warn(message)
        before = self.run.notes(self.name).get("warnings", [])
        if message not in before:
            self.run.note(self.name, warnings=[*before, message])
            self._alert("needs attention", message)

    def _alert(self, what: str, text: str) -> None:
        if self._tracker is not None:
            self._tracker.alert(f"{self.config.run}: {self.name} {what}", text)

    def progress(self, total: int, done: int = 0) -> AbstractContextManager[StageProgress]:
        """The stage's progress bar."""
        return self.console.progress(self.name, total, done)

    def record(self, name: str, judged: Sequence[JudgedComparison], task: JudgingTask) -> dict[str, Any]:
        """Keep a full held-out evaluation: its row of ``summary.json`` and its judgments."""
        row = summarise(judged, seed=self.config.seed)
        shown = judged[: self.config.evaluate.example_traces]
        self.run.write_parquet(self.run.heldout_file(name), judgment_rows(name, 0, shown, task.pairs))
        self.run.update_summary({name: row})
        return row

    def export(self, learners: LearnerGroup) -> None:
        """Leave the trained model in the run's folder, in Hugging Face format, with its card."""
        learners.export(str(self.run.export_directory(self.name)))
        write_model_cards(self.run)

    def finish(self, name: str, judged: Sequence[JudgedComparison], task: JudgingTask) -> None:
        """Record the stage's result and mark it as finished."""
        row = self.record(name, judged, task)
        self.tracker.summary(row)
        self.run.update_summary({"seconds": {self.name: self.seconds()}})
        # Pairs that have one order, as those of published rows, are never right in both.
        both = "" if row["consistent_accuracy"] is None else f", both orders right {row['consistent_accuracy']:.3f}"
        self.console.note(f"held out: accuracy {row['accuracy']:.3f}{both} ({row['n']} pairs)")
        write_report(self.run.path)
        write_model_cards(self.run)
        self.run.mark_finished(self.name)
        self.is_finished = True

    def close(self, failed: bool) -> None:
        """Close what was opened; one that did not reach its end says so."""
        if failed:
            self._alert("stopped before its end", f"the log is {self.run.logs}/driver.log")
        if self._tracker is not None:
            self._tracker.finish(exit_code=1 if failed else 0)


class _Warnings(logging.Handler):
    """Passes on what the code of pipelines warns of, for example that W&B cannot be reached."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.WARNING)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.warn(record.getMessage())


@contextmanager
def open_stage(config: Config, run: RunDirectory, name: str, resumable: bool = True) -> Iterator[Stage]:
    """A stage of a run. A finished one is opened with ``is_finished`` set; ``overwrite`` clears it first.

    Raises:
        ConfigError: the stage was begun or finished with other settings, or files it reads have another content now.
        CheckpointError: the checkpoint that it would continue from lacks a file, or one was cut off.

    """
    console = Console()
    console.header(name, f"run {config.run}, recipe {config.recipe_name}, seed {config.seed}")
    if config.overwrite or not resumable:
        run.start_over(name)
    stage = Stage(config, run, name, console)
    _refuse_other_settings(config, run, name)
    read = _same_contents(config, run, name)
    if run.finished(name):
        console.note(f"{name} of run {config.run!r} is finished already; overwrite=true starts it over")
        stage.is_finished = True
        yield stage
        return
    if newest := latest(run.checkpoints(name)):
        refuse_incomplete(newest)
    run.note(name, settings=STAGES[name].settings(config), contents=read)
    failed = True
    warnings, ours = _Warnings(stage), logging.getLogger("pipelines")
    ours.addHandler(warnings)
    try:
        yield stage
        failed = False
    finally:
        stage.close(failed)
        ours.removeHandler(warnings)


def _refuse_other_settings(config: Config, run: RunDirectory, name: str) -> None:
    before = run.notes(name).get("settings")
    if before is None:
        return
    now = STAGES[name].settings(config)
    # A setting that a run of an older version does not name had what is the default now.
    fixed = known_keys()
    before = {key: value for key, value in STAGES[name].settings(Config()).items() if key in fixed} | before
    changed = [
        f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{name} of run {config.run!r} was begun with other settings ({'; '.join(changed)}): give them back, "
            "choose another run name (RUN=...), or start over with overwrite=true"
        )


def _same_contents(config: Config, run: RunDirectory, name: str) -> dict[str, Content]:
    """The content of what the stage reads; of files that are gone since it began, the content they had then."""
    before = run.notes(name).get("contents", {})
    now = contents(config, run, STAGES[name].reads)
    if changed := list(changes(before, now)):
        raise ConfigError(
            f"{name} of run {config.run!r} was begun with other files ({'; '.join(changed)}): give them back, choose "
            "another run name (RUN=...), or start over with overwrite=true"
        )
    return {setting: found or before.get(setting, {}) for setting, found in now.items()}


@contextmanager
def open_run(config: Config) -> Iterator[RunDirectory]:
    """The run's folder, locked, with the resolved configuration written and the driver's log going to a file."""
    with RunDirectory(config.output_root, config.run, config.recipe_name) as run:
        write_text(run.config_file, redact(OmegaConf.to_yaml(OmegaConf.structured(config))))
        run.update_summary({"run": config.run, "recipe": config.recipe_name, "seed": config.seed})
        handler = LogFile(run.logs / "driver.log", encoding="utf-8")
        handler.setFormatter(LogFormatter())
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield run
        except Exception as error:
            log.error("the run ended by an error", exc_info=True)
            # Shown with the traceback of a defect; of an error that a user can mend only the message is.
            error.add_note(f"This is a defect, or a fault of the machine: the log is {run.shown}/logs/driver.log")
            raise
        finally:
            root.removeHandler(handler)
            handler.close()


def standalone(stage: Callable[[Config, Session], None], *training: str) -> Callable[[Config], None]:
    """A stage as a command of its own: it opens the run's folder and a session, and closes both.

    One that trains names itself in ``training``, and is refused where it does not fit into memory.
    """

    def command(config: Config) -> None:
        if training:
            refuse_what_does_not_fit(config, training)
        with open_run(config) as run, Session(config, run) as session:
            stage(config, session)

    return command
