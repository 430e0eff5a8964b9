"""A stage's life: begun, refused, continued, saved, rewound, recorded, finished, started over."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from checkpoints import STATE, write_checkpoint

from actors.learner.manifest import CheckpointError, checkpoint_path
from actors.messages import Order, Verdict
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.schema import Message, PreferencePair
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.reporting.run_report import report_data
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import JudgingTask
from pipelines.stages.stage import Stage, open_run

Open = Callable[..., AbstractContextManager[Stage]]
ORDERS: tuple[Order, ...] = ("chosen_first", "chosen_second")
PAIR = PreferencePair("p", "mine", "chat", (Message("user", "q"),), "good", "bad")
TASK = JudgingTask({"p": PAIR}, (), cast(Any, None))
JUDGED = [
    JudgedComparison("p", order, label, "chat", Verdict("A", None), 3, "stop", "[[A]]")
    for order, label in zip(ORDERS, ("A", "B"), strict=True)
]


@pytest.mark.slow
def test_a_stage_begun_with_other_settings_is_refused_and_says_which(opened: Open) -> None:
    with opened():
        pass
    with pytest.raises(ConfigError, match=r"^rl of run 'tiny' was begun .* \(rl\.epochs: was 1, is 2\)"):
        opened("rl.epochs=2").__enter__()
    # These change how it is run, not what comes out.
    with opened("rl.checkpoints.every=3", "rl.evaluate_every=7", "learner.ranks=2", "data.mix.folder=x") as stage:
        assert not stage.is_finished
    with opened("rl.epochs=2", "overwrite=true"), opened("rl.epochs=2") as stage:
        assert not stage.is_finished


@pytest.mark.slow
def test_a_checkpoint_that_lacks_a_file_or_a_part_of_one_is_refused_before_anything_starts(
    opened: Open, run: RunDirectory
) -> None:
    with opened():
        pass
    file = write_checkpoint(checkpoint_path(run.checkpoints("rl"), 4), {"step": 4}) / STATE
    with opened() as stage:
        assert not stage.is_finished
    os.truncate(file, 9)
    says = r"step-000004: state\.json has 9 bytes instead of 11\. Remove that folder to begin the stage"
    with pytest.raises(CheckpointError, match=says):
        opened().__enter__()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        opened().__enter__()
    with opened("overwrite=true") as stage:
        assert not stage.is_finished


@pytest.mark.slow
def test_a_setting_that_is_new_since_the_stage_began_has_its_default(opened: Open, run: RunDirectory) -> None:
    with opened():
        pass
    noted = run.notes("rl")["settings"]
    run.note("rl", settings={key: value for key, value in noted.items() if key != "data.ignore_columns"})
    with opened():
        pass
    run.note("rl", settings={key: value for key, value in noted.items() if key != "data.ignore_columns"})
    with pytest.raises(ConfigError, match=r"data\.ignore_columns: was \[\], is \['context'\]"):
        opened("data.ignore_columns=[context]").__enter__()
    # What a section of the user's own does not name has no default.
    run.note("rl", settings={key: value for key, value in noted.items() if key != "algorithm.reward.verdict"})
    with pytest.raises(ConfigError, match=r"algorithm\.reward\.verdict: was None, is 1\.0"):
        opened().__enter__()


@pytest.mark.slow
def test_only_settings_are_free_not_what_a_user_names_like_one(opened: Open) -> None:
    """A reward component may be called `limit`, which is free in an evaluation: its weight still counts."""
    functions = ["+verifier.functions.limit.path=own.rewards", "+algorithm.reward.limit=1.0"]
    with opened(*functions):
        pass
    with pytest.raises(ConfigError, match=r"algorithm\.reward\.limit: was 1\.0, is 0\.5"):
        opened(functions[0], "+algorithm.reward.limit=0.5").__enter__()


@pytest.mark.slow
def test_a_finished_stage_is_passed_over_until_it_is_started_over(opened: Open, run: RunDirectory) -> None:
    with opened() as stage:
        stage.tracker.log(1, {"reward": 0.5})
        stage.finish("rl", JUDGED, TASK)
        assert stage.is_finished
    summary = run.summary()
    assert (summary["rl"]["accuracy"], summary["rl"]["n"]) == (0.5, 1)
    assert summary["seconds"]["rl"] > 0
    assert run.report_file.exists()
    with opened() as stage:
        assert stage.is_finished
    with pytest.raises(ConfigError, match="other settings"):
        opened("seed=5").__enter__()
    with opened("overwrite=true") as stage:
        assert not stage.is_finished
        assert run.summary().keys() == {"seconds"}
    with opened(resumable=False) as stage:
        assert not stage.is_finished


@pytest.mark.slow
def test_a_stage_that_fails_is_not_finished_and_continues(opened: Open, run: RunDirectory) -> None:
    def fail() -> None:
        with opened() as stage:
            stage.tracker.log(1, {"reward": 0.5})
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert not run.finished("rl")
    with opened() as stage:
        assert not stage.is_finished


def test_a_recorded_evaluation_is_a_row_and_its_judgments(opened: Open, run: RunDirectory) -> None:
    with opened("evaluate.example_traces=1", name="distill") as stage:
        row = stage.record("before", JUDGED, TASK)
    assert run.summary()["before"] == row
    rows = pq.read_table(run.heldout_file("before")).to_pylist()
    assert [(item["stage"], item["order"], item["reward"]) for item in rows] == [("before", "chosen_first", 1.0)]


@pytest.mark.parametrize(
    ("stage", "kept"),
    [
        ("prepare", []),
        ("distill", []),
        ("rl", ["distill-rollouts-000001", "heldout-before", "heldout-distill"]),
        (
            "evaluate",
            ["distill-rollouts-000001", "heldout-before", "heldout-distill", "heldout-rl", "rl-rollouts-000001"],
        ),
        (
            "chains",
            [
                *("distill-rollouts-000001", "heldout-before", "heldout-distill"),
                *("heldout-evaluate", "heldout-rl", "rl-rollouts-000001"),
            ],
        ),
    ],
)
def test_starting_over_leaves_no_judgment_of_what_is_gone(
    opened: Open, run: RunDirectory, stage: str, kept: list[str]
) -> None:
    """Files by the names that the stages themselves give them."""
    for name, rows in (("distill", ("before", "distill")), ("rl", ("rl",)), ("evaluate", ("evaluate",))):
        with opened(name=name) as opened_stage:
            for row in rows:
                opened_stage.record(row, JUDGED, TASK)
            if name != "evaluate":
                run.write_parquet(run.trace_file(name, "rollouts", 1), [{"step": 1}])
    run.start_over(stage)
    assert sorted(file.stem for file in run.traces.iterdir()) == kept


def test_what_the_code_warns_of_is_on_the_terminal_and_in_the_report(
    opened: Open, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened():
        for _ in range(2):
            logging.getLogger("pipelines.reporting.tracking").warning("W&B: going online failed (%s)", "no route")
        logging.getLogger("another.library").warning("noise")
    assert "warning: W&B: going online failed (no route)" in capsys.readouterr().out
    assert report_data(run.path)["notes"][0] == "rl: W&B: going online failed (no route)"
    assert run.notes("rl")["warnings"] == ["W&B: going online failed (no route)"]


@pytest.mark.slow
def test_a_defect_is_in_the_log_and_names_it(tmp_path: Path) -> None:
    config = load_config(["recipe=tiny", "run=broken", f"output_root={tmp_path}"])
    with pytest.raises(ZeroDivisionError) as raised, open_run(config):
        print(1 // 0)
    log = tmp_path / "broken" / "logs" / "driver.log"
    assert raised.value.__notes__ == [f"This is a defect, or a fault of the machine: the log is {log}"]
    assert "ZeroDivisionError" in log.read_text(encoding="utf-8")
