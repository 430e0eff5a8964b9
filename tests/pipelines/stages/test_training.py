"""The steps of a stage: continued from a checkpoint, logged, evaluated and saved by schedule, forgotten without one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from checkpoints import read_checkpoint, write_checkpoint

from actors.learner.group import LearnerGroup
from actors.messages import Verdict
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.reporting.run_report import report_data
from pipelines.runs import interruption
from pipelines.runs.folder import RunDirectory
from pipelines.runs.interruption import Interrupted, Interruption
from pipelines.stages.stage import Stage
from pipelines.stages.training import Training, open_training

Open = Callable[..., AbstractContextManager[Stage]]


class Learners:
    """Learners of which only the trainer's state is kept: a checkpoint is a folder with that state."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def save(self, path: str, state: dict[str, Any], in_background: bool = False) -> None:
        self.calls.append(f"{Path(path).name}{' in background' * in_background}")
        write_checkpoint(path, state)

    def finish_saving(self) -> None:
        self.calls.append("finish")

    def restore(self, path: str) -> dict[str, Any]:
        return read_checkpoint(path)


LEARNERS = cast(LearnerGroup, Learners())


class Alerts:
    """A tracker that keeps the alerts it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def alert(self, title: str, text: str) -> None:
        self.given.append((title, text))

    def reopen(self) -> None:
        """Holds no file."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Nothing is asked of the numbers here."""

    def finish(self, exit_code: int) -> None:
        """Nothing is open."""


async def judged(right: int = 10) -> Sequence[JudgedComparison]:
    """Twenty held-out judgments, the first ``right`` of them right."""
    return [
        JudgedComparison(f"p{n}", "chosen_first", "A", "chat", Verdict("A" if n < right else "B", None), 3, "stop", "")
        for n in range(20)
    ]


def take(training: Training, stop: int, evaluate: Callable[[], Any] = judged) -> None:
    """Steps of a loop up to ``stop``: traces, numbers, and what the loop has to remember."""
    for done in range(training.first + 1, stop + 1):
        asyncio.run(training.log_traces(done, [{"step": done}]))
        training.carried["kl_coefficient"] = done / 100
        asyncio.run(training.after_step(done, {"reward": done / 10}, evaluate))


def steps_of(run: RunDirectory) -> list[int]:
    return [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()]


@pytest.mark.slow
def test_continuing_brings_back_what_was_saved_and_forgets_what_came_after(opened: Open, run: RunDirectory) -> None:
    every = ("rl.checkpoints.every=2", "rl.evaluate_every=0")
    with opened(*every) as stage, open_training(stage, LEARNERS, 6) as training:
        assert (training.first, list(training.steps)) == (0, [0, 1, 2, 3, 4, 5])
        take(training, 3)
    with opened(*every) as stage:
        before = stage.seconds()
        with open_training(stage, LEARNERS, 6) as training:
            assert (training.first, list(training.steps)) == (2, [2, 3, 4, 5])
            assert training.carried == {"kl_coefficient": 0.02}
            assert stage.seconds() > before
            assert steps_of(run) == [1, 2]
            assert sorted(file.name for file in run.traces.iterdir()) == [
                "rl-rollouts-000001.parquet",
                "rl-rollouts-000002.parquet",
            ]
            take(training, 3)
    assert steps_of(run) == [1, 2, 3]


@pytest.mark.slow
def test_numbers_without_a_checkpoint_are_forgotten(opened: Open, run: RunDirectory) -> None:
    with opened("rl.evaluate_every=0") as stage, open_training(stage, LEARNERS, 6) as training:
        take(training, 1)
    with opened("rl.evaluate_every=0") as stage, open_training(stage, LEARNERS, 6) as training:
        assert training.first == 0
    assert steps_of(run) == []
    assert list(run.traces.iterdir()) == []


@pytest.mark.slow
def test_evaluations_come_by_schedule_and_their_figures_are_the_steps(opened: Open, run: RunDirectory) -> None:
    settings = ("rl.evaluate_every=2", "rl.checkpoints.every=3")
    with opened(*settings) as stage, open_training(stage, LEARNERS, 4) as training:
        assert [training.pauses_after(done) for done in (1, 2, 3, 4)] == [False, True, True, True]
        take(training, 4)
    lines = [json.loads(line)["metrics"] for line in run.metrics_file.read_text().splitlines()]
    # Not after the last step, where the stage evaluates everything.
    assert [line.get("eval/accuracy") for line in lines] == [None, 0.5, None, None]
    assert (lines[1]["eval/accuracy/domain/chat"], lines[1]["eval/accuracy/order/chosen_first"]) == (0.5, 0.5)
    assert "eval/accuracy/order/chosen_second" not in lines[1], "no pair was judged in that order"
    assert lines[1]["time/evaluate"] >= 0
    assert [path.name for path in sorted(run.checkpoints("rl").iterdir())] == ["step-000003", "step-000004"]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_besides_the_last_also_after_a_restart(opened: Open, run: RunDirectory) -> None:
    settings = ("rl.checkpoints.keep_last=2", "rl.checkpoints.every=1", "rl.evaluate_every=1")
    right = iter((5, 18, 12, 16, 18, 4))

    async def evaluate() -> Sequence[JudgedComparison]:
        return await judged(next(right))

    with opened(*settings) as stage, open_training(stage, LEARNERS, 9) as training:
        take(training, 3, evaluate)
    with opened(*settings) as stage, open_training(stage, LEARNERS, 9) as training:
        assert training.first == 3
        take(training, 6, evaluate)
    kept = sorted(path.name for path in run.checkpoints("rl").iterdir())
    # Step 6 is being written: until it is whole, the two before it stay.
    assert kept == ["step-000002", "step-000004", "step-000005", "step-000006"]
    with opened(*settings) as stage, open_training(stage, LEARNERS, 7) as training:
        right = iter(())
        take(training, 7, evaluate)
    kept = sorted(path.name for path in run.checkpoints("rl").iterdir())
    assert kept == ["step-000002", "step-000006", "step-000007"]


@pytest.mark.slow
def test_checkpoints_are_written_in_the_background_but_for_the_last(opened: Open, run: RunDirectory) -> None:
    learners = Learners()
    settings = ("rl.checkpoints.every=2", "rl.evaluate_every=0")
    with opened(*settings) as stage, open_training(stage, cast(LearnerGroup, learners), 5) as training:
        take(training, 5)
    background = " in background"
    assert learners.calls == [
        *("finish", f"step-000002{background}", "finish", f"step-000004{background}", "finish", "step-000005"),
    ]
    learners.calls.clear()
    with (
        opened(*settings, "rl.checkpoints.in_background=false", "overwrite=true") as stage,
        open_training(stage, cast(LearnerGroup, learners), 2) as training,
    ):
        take(training, 2)
    assert learners.calls == ["finish", "step-000002"]


@pytest.mark.slow
def test_a_step_is_saved_when_enough_minutes_have_passed(
    opened: Open, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided once a step, so that a loop that runs a step ahead and the one that saves agree."""
    now = 0.0
    monkeypatch.setattr("pipelines.stages.training.time", SimpleNamespace(monotonic=lambda: now))
    settings = ("rl.checkpoints.every=50", "rl.checkpoints.every_minutes=10", "rl.evaluate_every=0")
    saved = []
    with opened(*settings) as stage, open_training(stage, LEARNERS, 9) as training:
        for done, minutes in enumerate((4, 11, 12, 20, 21.5, 33), start=1):
            now = 60 * minutes
            pauses = training.pauses_after(done)
            now += 3600 if done == 3 else 0  # Too late for this step.
            asyncio.run(training.after_step(done, {"reward": 1.0}, judged))
            now = 60 * minutes
            saved.append((run.checkpoints("rl") / f"step-{done:06d}").is_dir())
            assert pauses == saved[-1]
    assert saved == [False, True, False, False, True, True]
    with (
        opened(*settings[:1], "rl.checkpoints.every_minutes=0", *settings[2:]) as stage,
        open_training(stage, LEARNERS, 90) as training,
    ):
        now = 1e9
        assert not training.pauses_after(training.first + 1)


@pytest.mark.slow
def test_the_page_is_there_before_the_first_step_and_after_every_evaluation(opened: Open, run: RunDirectory) -> None:
    def rewards() -> list[list[float]]:
        page = run.report_file.read_text()
        return (
            json.loads(page.partition('id="data">')[2].partition("</script")[0])["series"]
            .get("rl", {})
            .get("reward", [])
        )

    with (
        opened("rl.evaluate_every=2", "rl.checkpoints.every=5") as stage,
        open_training(stage, LEARNERS, 5) as training,
    ):
        assert rewards() == []
        # No minute passes here; a step of note writes as soon as it would not cost too much.
        training.report._took = 0.0
        take(training, 1)
        assert rewards() == []
        asyncio.run(training.after_step(2, {"reward": 0.2}, judged))
        assert rewards() == [[1, 0.1], [2, 0.2]]
        asyncio.run(training.after_step(3, {"reward": 0.3}, judged))
        assert len(rewards()) == 2
    assert len(rewards()) == 3


@pytest.mark.slow
def test_steps_that_teach_nothing_are_warned_of_on_the_terminal_and_in_the_report(
    opened: Open, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {"equal_reward_groups": 1.0, "reward": 1.0, "reward_std": 0.0, "accuracy": 1.0, "parse_rate": 1.0}
    settings = ("rl.warn_after_flat_steps=3", "rl.evaluate_every=0")
    with opened(*settings) as stage, open_training(stage, LEARNERS, 5) as training:
        for done in range(1, 6):
            asyncio.run(training.after_step(done, flat, judged))
    said = "step 3: nothing was learned in the last 3 steps"
    assert capsys.readouterr().out.count(said) == 1
    assert [note for note in report_data(run.path)["notes"] if said in note and "too easy" in note]


def test_an_interrupted_step_is_saved_unless_the_learners_are_a_step_ahead(
    opened: Open, run: RunDirectory, handled_signals: None
) -> None:
    settings = ("rl.evaluate_every=1", "rl.checkpoints.every=50")
    asked = False

    async def evaluate() -> Sequence[JudgedComparison]:
        nonlocal asked
        asked = True
        return []

    with suppress(Interrupted), opened(*settings) as stage, open_training(stage, LEARNERS, 6) as training:
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.pauses_after(2)
        asyncio.run(training.after_step(1, {"loss": 1.0}, evaluate, is_ahead=True))
        assert list(run.checkpoints("rl").glob("step-*")) == []
        with pytest.raises(Interrupted):
            asyncio.run(training.after_step(2, {"loss": 1.0}, evaluate))
    assert [path.name for path in run.checkpoints("rl").iterdir()] == ["step-000002"]
    assert not asked, "there is no time for an evaluation"


@pytest.fixture
def handled_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals handled as a command handles them, of a process that was asked nothing so far."""
    monkeypatch.setattr(interruption, "_state", Interruption())
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    interruption.install()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_warnings_restarts_and_deaths_are_alerts(opened: Open) -> None:
    """Each warning once; a stage that continues; one that stops before its end."""
    alerts = Alerts()
    checkpoints = "rl.checkpoints.every=1"
    with suppress(RuntimeError), opened(checkpoints) as stage:
        stage._tracker = cast(Any, alerts)
        with open_training(stage, LEARNERS, 2) as training:
            asyncio.run(training.after_step(1, {"reward": 1.0}, judged))
            stage.warn("something is odd")
            stage.warn("something is odd")
            raise RuntimeError("broken")
    titles = [title for title, _ in alerts.given]
    assert titles == ["tiny: rl needs attention", "tiny: rl stopped before its end"]
    with opened(checkpoints) as stage:
        stage._tracker = cast(Any, alerts)
        with open_training(stage, LEARNERS, 2):
            assert alerts.given[2:] == [("tiny: rl was restarted", "it continues after step 1")]
