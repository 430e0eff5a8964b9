"""A run is struck where and when it was drawn, submitted again where it was killed, and told from one that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest
from commands import ROOT

from pipelines.faults.draws import DrawnFault
from pipelines.faults.trial import Submission, Trial, give_no_more, rl_rows


@dataclass(frozen=True, slots=True)
class Scripted(Submission):
    """A run without its work; the command of a person otherwise."""

    @property
    def command(self) -> list[str]:
        own = (f"run={self.name}", f"output_root={self.root}")
        return [sys.executable, str(ROOT / "tests" / "support" / "scripted_run.py"), *self.settings, *own]


def trial(root: Path, faults: Sequence[DrawnFault], *settings: str, seconds: float = 60.0) -> Trial:
    submission = Scripted("run", "struck", root, ("steps=30", *settings))
    return Trial(submission, faults, step_seconds=0.1, seconds=seconds)


def fault(action: Any, part: Any, at: float, shortly: float | None = None) -> DrawnFault:
    return DrawnFault(action, part, 0, at, shortly)


@pytest.mark.slow
def test_killed_stopped_and_damaged_parts_and_a_killed_driver(tmp_path: Path) -> None:
    struck = trial(
        tmp_path,
        [
            fault("kill", "verifier", 2.5),
            fault("kill", "verifier", 3.0, shortly=0.5),
            fault("kill", "driver", 10.2),
            fault("damage", "newest checkpoint", 13.0),
        ],
    )
    assert struck.run() is None
    assert [row["step"] for row in rl_rows(struck.submission.folder)] == list(range(1, 31))
    faults = struck.story.faults
    assert [each.drawn.victim for each in faults] == ["verifier", "verifier", "driver", "newest checkpoint"]
    for each in faults:
        assert each.noticed is not None
        assert each.back is not None
        assert each.struck <= each.noticed <= each.back
    assert faults[0].step >= 2
    assert faults[1].struck >= faults[0].struck + 0.5
    driver, checkpoint = faults[2:]
    # Back to the newest checkpoint, and to the one before it where that is damaged.
    assert driver.lost_steps == driver.step % 4
    assert checkpoint.lost_steps == checkpoint.step % 4 + 4
    assert struck.left_behind() == []
    assert "is damaged. Remove that folder" in struck.submission.output.read_text()


@pytest.mark.slow
def test_a_driver_that_may_write_no_more_ends_with_a_message_and_goes_on(tmp_path: Path) -> None:
    struck = trial(tmp_path, [fault("no disk", "driver", 6.3)])
    assert struck.run() is None
    assert [row["step"] for row in rl_rows(struck.submission.folder)] == list(range(1, 31))
    [disk] = struck.story.faults
    assert disk.noticed is not None
    assert disk.back is not None
    assert disk.struck < disk.noticed <= disk.back
    assert disk.lost_steps == disk.step % 4


@pytest.mark.slow
@pytest.mark.parametrize("says", ["Traceback (most recent call last): ulimit -f", "error: something else"])
def test_one_that_says_it_otherwise_has_not_survived(says: str, tmp_path: Path) -> None:
    problem = trial(tmp_path, [fault("no disk", "driver", 6.3)], f"says={says}").run()
    assert problem is not None
    assert problem.startswith("ended with status 1, though it should have gone on")


def test_a_process_gets_no_more_memory_than_it_has() -> None:
    code = "print('begun', flush=True)\ninput()\ntry: bytearray(2**28)\nexcept MemoryError: print('refused')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        give_no_more(psutil.Process(process.pid), "no memory")
        out, _ = process.communicate("go on\n", timeout=60)
    assert out.split() == ["refused"]


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_told_with_its_places(tmp_path: Path) -> None:
    problem = trial(tmp_path, [fault("kill", "verifier", 2.0)], "fails_at=7").run()
    assert problem is not None
    assert problem.startswith("ended with status 1, though it should have gone on: see ")
    assert f"{tmp_path}/struck.run.out and {tmp_path}/struck/logs" in problem


@pytest.mark.slow
def test_a_run_that_fails_after_its_driver_was_killed_is_not_submitted_for_ever(tmp_path: Path) -> None:
    struck = trial(tmp_path, [fault("kill", "driver", 5.0)], "fails_at=9")
    problem = struck.run()
    assert problem is not None
    assert "ended with status 1" in problem
    assert len(struck.story.faults) == 1


@pytest.mark.slow
def test_a_run_that_hangs_is_told_and_ended(tmp_path: Path) -> None:
    struck = trial(tmp_path, [], "hangs_at=4", seconds=3.0)
    problem = struck.run()
    assert problem is not None
    assert problem.startswith("did not come to its end within 3 s, so it hangs: see ")
    assert struck.left_behind() == []


@pytest.mark.slow
def test_what_a_run_leaves_is_told(tmp_path: Path) -> None:
    struck = trial(tmp_path, [], "leaves=yes")
    assert struck.run() is None
    assert [what.split(" (")[0].split(" ")[0] for what in struck.traces.left_behind("no-such", seconds=0.2)] == [
        "process"
    ]
    struck.traces.end()


def test_the_command_is_what_a_person_types() -> None:
    submission = Submission("run", "seed-1", Path("outputs/chaos"), ("recipe=tiny",))
    assert submission.command[1:] == [
        *("-m", "pipelines.run", "recipe=tiny", "run=seed-1", "output_root=outputs/chaos"),
    ]


@pytest.mark.parametrize("line", ["", '{"stage": "rl", "step": 3', '{"stage": "distill", "step": 9}\n'])
def test_rows_are_whole_and_of_rl(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl", "step": 1}\n{"stage": "rl", "step": 2}\n' + line)
    assert [row["step"] for row in rl_rows(tmp_path)] == [1, 2]
