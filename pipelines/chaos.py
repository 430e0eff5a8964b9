"""Whether runs survive: processes of short runs of the tiny recipe are killed and stopped, at moments drawn by a seed.

    python -m pipelines.chaos --seeds 0,1 [--faults 5] [key=value ...]

A judge is distilled and reinforced once undisturbed; then a run of the same settings for each seed reinforces the same
distilled judge and meets faults that are applied from outside to its real processes. A run whose driver was killed is
submitted again by the same command. At the end each must have trained on every prompt exactly once, be as good as the
undisturbed run, and have left nothing behind. Runs, their output and the table as chaos.json lie in --output, where an
undisturbed run of the same settings is used again. Exit status 1 where a check failed. docs/faults.md says what is
drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.errors import UserError
from actors.files import remove_whole, write_text
from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.config.overrides import arguments_of
from pipelines.faults.draws import draw
from pipelines.faults.judging import accuracy_problems, history_of, history_problems, metrics_problems
from pipelines.faults.story import as_json, row_of, table
from pipelines.faults.trial import Submission, Trial, rl_rows
from pipelines.reporting.console import Console
from pipelines.runs import interruption
from pipelines.runs.command_line import clear_errors
from pipelines.runs.lock import FolderLock

SHORT = (
    *("recipe=tiny", "tracking=off", "data.distill_pairs=3000", "data.rl_pairs=2000", "data.heldout_pairs=200"),
    *("distill.epochs=3", "rl.steps=24", "rl.evaluate_every=0", "rl.checkpoints.every=4", "rl.checkpoints.keep_last=3"),
    # Groups without a difference are kept, so that each step learns from its own prompts and from no refills.
    "algorithm.equal_reward_groups=keep",
    *("learner.ranks=2", "cluster.learner_cpus=0.4", "cluster.rollout_cpus=0.5"),
    *("cluster.max_restarts=1000", "cluster.step_timeout=180"),
)
"""The tiny recipe, shortened; settings of the command line go over these."""
_QUIET_SECONDS = 1800.0
"""For a run without faults."""
_FAULT_SECONDS = 300.0
"""For each fault, besides."""


class RunFailed(UserError, RuntimeError):
    """A run failed without any fault; names its output."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What runs with faults are compared with."""

    folder: Path
    rows: list[Any]
    accuracy: float

    @property
    def step_seconds(self) -> float:
        """Mean time of a step."""
        times = [row["time"] for row in self.rows]
        return (times[-1] - times[0]) / max(1, len(times) - 1)


def undisturbed(root: Path, settings: Sequence[str], console: Console) -> tuple[Undisturbed, tuple[str, ...]]:
    """The undisturbed run, and the settings by which all others start from its distilled judge.

    Raises:
        RunFailed: without any fault.

    """
    run = Submission("run", "undisturbed", root, tuple(settings))
    trial = Trial(run, seconds=_QUIET_SECONDS)
    console.note(f"{run.name}: distilled and reinforced without faults")
    if problem := trial.run():
        raise RunFailed(f"{run.name} {problem}. Its last words: {trial.said_last()[-600:]}")
    before = Undisturbed(run.folder, rl_rows(run.folder), _accuracy(run.folder))
    return before, (*settings, "rl.distil_first=false", f"rl.policy={run.folder / 'distill' / 'hf'}")


def disturbed(trial: Trial, before: Undisturbed, margin: float) -> list[str]:
    """Run under faults to the end; what is wrong then, in words."""
    folder, problem = trial.submission.folder, trial.run()
    problems = [f"the run {problem}"] if problem else []
    if not problems:
        problems += history_problems(_history(folder), _history(before.folder))
        problems += metrics_problems(rl_rows(folder), len(before.rows))
        problems += accuracy_problems(_accuracy(folder), before.accuracy, margin)
    return problems + [f"left behind: {what}" for what in trial.left_behind()]


def _history(folder: Path) -> Any:
    files = sorted(folder.glob("traces/rl-rollouts-*.parquet"))
    return history_of(
        row for file in files for row in pq.read_table(file).select(["step", "pair_id", "order"]).to_pylist()
    )


def _accuracy(folder: Path) -> float:
    return float(json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rl"]["accuracy"])


def chaos(root: Path, seeds: Sequence[int], faults: int, margin: float, overrides: Sequence[str]) -> bool:
    """Run all seeds; whether each run survived."""
    console, settings = Console(), [*SHORT, *overrides]
    config = load_config(settings)
    if config.algorithm.max_staleness:
        raise ConfigError(
            "algorithm.max_staleness above 0 lets runs of the same settings differ in their last prompts, which are "
            "compared here: set it to 0"
        )
    console.header("chaos", f"seeds {', '.join(map(str, seeds))}, {faults} faults each, in {root}")
    before, shared = undisturbed(root, settings, console)
    console.note(f"undisturbed: held-out accuracy {before.accuracy:.3f}, {before.step_seconds:.1f} s a step")
    runs: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for seed in seeds:
        drawn = draw(seed, faults, len(before.rows), config.rollout.workers, config.learner.ranks)
        submission = Submission("run", f"seed-{seed}", root, shared)
        for path in (submission.folder, submission.output):
            remove_whole(path)
        console.header(submission.name)
        trial = Trial(
            submission,
            drawn,
            step_seconds=before.step_seconds,
            seconds=_QUIET_SECONDS + _FAULT_SECONDS * faults,
            tell=console.note,
        )
        problems = disturbed(trial, before, margin)
        if (missed := faults - len(trial.story.faults)) and not problems:
            problems.append(f"the run was over before {missed} of its faults: make it longer (rl.steps)")
        for problem in problems:
            console.error(f"{submission.name}: {problem}")
        rows += [row_of(submission.name, fault) for fault in trial.story.faults]
        runs.append(
            {
                "run": submission.name,
                "accuracy": None if problems else _accuracy(submission.folder),
                "problems": problems,
                "died_besides": trial.story.besides,
                "faults": as_json(trial.story.faults),
            }
        )
        report = {"settings": shared, "margin": margin, "undisturbed": before.accuracy, "runs": runs}
        write_text(root / "chaos.json", json.dumps(report, indent=2) + "\n")
    for line in ["", *table(rows)]:
        console.note(line)
    survived = sum(not run["problems"] for run in runs)
    console.note(f"{len(rows)} faults; {survived} of {len(runs)} runs survived: {root / 'chaos.json'}")
    return survived == len(runs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=[0], help="a run for each, as 0,1,2")
    parser.add_argument("--faults", type=positive, default=5, help="faults of each run")
    parser.add_argument("--margin", type=float, default=0.1, help="how far held-out accuracies may be from undisturbed")
    parser.add_argument("--output", type=Path, default=Path("outputs/chaos"), help="folder of the runs")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of all runs")
    with clear_errors():
        given = parser.parse_args(arguments_of(sys.argv[1:]))
        # A run that is under way ends with this process.
        interruption.install()
        lock = FolderLock(given.output, str(given.output))
        lock.acquire()
        try:
            survived = chaos(given.output, given.seeds, given.faults, given.margin, given.settings)
        finally:
            lock.release()
    sys.exit(0 if survived else 1)


def positive(text: str) -> int:
    """A number of at least one."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, is {number}")
    return number


def numbers(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
