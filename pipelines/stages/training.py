"""The steps of a stage that trains: where they continue, and what follows each of them: log, evaluate, save."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from actors.learner.group import LearnerGroup
from actors.learner.manifest import checkpoint_path, latest, list_checkpoints, prune
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.metrics import summarise
from pipelines.reporting.console import StageProgress
from pipelines.reporting.failed_traces import FailedTraces
from pipelines.reporting.flat_steps import FlatSteps
from pipelines.reporting.live_report import LiveReport
from pipelines.reporting.policies_apart import PoliciesApart
from pipelines.runs import interruption
from pipelines.runs.catalogue import STAGES
from pipelines.stages.stage import Stage

Evaluate = Callable[[], Awaitable[Sequence[JudgedComparison]]]
"""Judges held-out pairs with the weights as they are now."""


class Training:
    """The steps of one stage. Its section of the configuration says when to evaluate and when to save."""

    def __init__(
        self, stage: Stage, learners: LearnerGroup, total: int, state: Mapping[str, Any], progress: StageProgress
    ) -> None:
        """``total`` are the stage's steps; ``state`` is the checkpoint's that the learners come from, or empty."""
        section = getattr(stage.config, STAGES[stage.name].section)
        self.first: int = state.get("step", 0)
        """Steps done before."""
        self.steps = range(self.first, total)
        """The steps, counted from 0, that are still to be taken."""
        self.carried: dict[str, Any] = dict(state.get("carried", {}))
        """What the loop has to remember besides: saved with every checkpoint, there again when it continues."""
        self._stage = stage
        self._learners = learners
        self._progress = progress
        self._evaluate_every: int = section.evaluate_every
        self._checkpoints = section.checkpoints
        config = stage.config
        self._alarms = (
            FlatSteps(config.rl.warn_after_flat_steps),
            FailedTraces(),
            PoliciesApart((config.rollout.dtype, config.learner.dtype), config.algorithm.old_logprobs),
        )
        self.report = LiveReport(stage.run.path)
        """The run's page, rewritten after steps."""
        self._saved_at = time.monotonic()
        self._due: tuple[int, bool] = (self.first, False)
        """A step, and whether it is saved for the time that has passed: decided once, whoever asks first."""
        self._best: Sequence[float] | None = state.get("best")
        """Highest held-out accuracy on the way, and its step."""

    def pauses_after(self, done: int) -> bool:
        """Whether the weights after ``done`` steps are evaluated or saved before the next step may begin."""
        return self._evaluates(done) or self._saves(done) or interruption.requested()

    def _evaluates(self, done: int) -> bool:
        return bool(self._evaluate_every) and done % self._evaluate_every == 0 and done < self.steps.stop

    def _saves(self, done: int) -> bool:
        return done % self._checkpoints.every == 0 or done == self.steps.stop or self._is_due(done)

    def _is_due(self, done: int) -> bool:
        if self._due[0] != done:
            minutes = (time.monotonic() - self._saved_at) / 60
            self._due = (done, 0 < self._checkpoints.every_minutes <= minutes)
        return self._due[1]

    async def after_step(
        self, done: int, metrics: Mapping[str, float], evaluate: Evaluate, is_ahead: bool = False
    ) -> None:
        """Evaluate if the schedule says so, log the step, save if the schedule says so or the run was interrupted.

        Args:
            done: steps done, this one included.
            metrics: of the step.
            evaluate: called if an evaluation is due; not where the run was interrupted, which leaves no time for it.
            is_ahead: whether the learners were given the next step already, whose weights are not those to save.

        Raises:
            Interrupted: a signal came, and the step is saved.

        """
        logged = dict(metrics)
        if self._evaluates(done) and not interruption.requested():
            started = time.monotonic()
            logged |= _held_out(await evaluate(), self._stage.config.seed)
            logged["time/evaluate"] = time.monotonic() - started
        self._stage.tracker.log(done, logged)
        self._progress.update(done, logged)
        for alarm in self._alarms:
            if warning := alarm.after(logged):
                self._stage.warn(f"step {done}: {warning}")
        stops = interruption.requested() and not is_ahead
        if self._saves(done) or stops:
            last = stops or done == self.steps.stop
            await asyncio.to_thread(self._save, done, logged.get("eval/accuracy"), last)
        await asyncio.to_thread(self.report.after_step, "eval/accuracy" in logged or self._saves(done))
        if stops:
            interruption.stop()

    async def log_traces(self, done: int, rows: list[dict[str, Any]]) -> None:
        """Keep all traces of the step on disk; W&B gets a table now and then."""
        run, stage = self._stage.run, self._stage
        await asyncio.to_thread(run.write_parquet, run.trace_file(stage.name, "rollouts", done), rows)
        if done == 1 or done % 20 == 0:
            await asyncio.to_thread(stage.tracker.log_traces, done, rows)

    def _save(self, done: int, accuracy: float | None, last: bool) -> None:
        """Begin a checkpoint when the one before is whole, and remove those that are neither recent nor the best.

        The ``last`` one is whole, too, when this returns.
        """
        if accuracy is not None and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, done)
        state = {
            "step": done,
            "seconds": self._stage.seconds(),
            "best": list(self._best) if self._best else None,
            "weight_version": done,
            "carried": self.carried,
        }
        root = self._stage.run.checkpoints(self._stage.name)
        in_background = self._checkpoints.in_background and not last
        self._learners.finish_saving()
        keep = {"keep_last": self._checkpoints.keep_last, "best_step": int(self._best[1]) if self._best else None}
        prune(root, **keep)
        self._learners.save(str(checkpoint_path(root, done)), state, in_background)
        self._saved_at = time.monotonic()
        if not in_background:
            prune(root, **keep)


@contextmanager
def open_training(stage: Stage, learners: LearnerGroup, total: int) -> Iterator[Training]:
    """Take the learners to the stage's last whole checkpoint, if there is one, and show a progress bar from there."""
    newest = latest(stage.run.checkpoints(stage.name))
    state = learners.restore(str(newest)) if newest else {}
    first = state.get("step", 0)
    stage.rewind(first)
    if newest:
        stage.seconds_before = state["seconds"]
        stage.console.note(f"continues after step {first}, from {newest}")
        stage.tracker.alert(f"{stage.config.run}: {stage.name} was restarted", f"it continues after step {first}")

    def point() -> str:
        saved = list_checkpoints(stage.run.checkpoints(stage.name))
        return f"{stage.name} after step {saved[-1][0]}" if saved else f"{stage.name} from its beginning"

    with interruption.at_step_ends(stage.config.cluster.grace, point), stage.progress(total, first) as progress:
        training = Training(stage, learners, total, state, progress)
        training.report.write()
        try:
            yield training
        finally:
            training.report.write()


def _held_out(judged: Sequence[JudgedComparison], seed: int) -> dict[str, float]:
    """Held-out figures of a step."""
    scores = summarise(judged, seed=seed, resamples=100)
    names = ("accuracy", "consistent_accuracy", "flip_rate", "parse_rate", "mean_tokens")
    found = {name: scores[name] for name in names}
    for kind in ("domain", "order"):
        found |= {f"accuracy/{kind}/{name}": row["accuracy"] for name, row in scores[f"by_{kind}"].items()}
    return {f"eval/{name}": value for name, value in found.items() if value is not None}
