"""A stage as a command: what its errors and signals end in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AGAIN = "run the same command again"

PROGRAM = """
import os, signal
from pipelines.runs.command_line import main
from pipelines.config import Config, ConfigError

def stage(config: Config) -> None:
    try:
        {body}
    finally:
        print("closed")

main(stage)
"""


def command(tmp_path: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(body=body))
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(
        [sys.executable, str(program), f"hydra.run.dir={tmp_path}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )


def test_a_stage_that_is_terminated_closes_what_it_opened(tmp_path: Path) -> None:
    done = command(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); signal.pause()")
    assert done.returncode == 130
    assert done.stdout == "closed\n"
    assert "continue from the last checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_a_user_can_mend_is_one_message(tmp_path: Path) -> None:
    done = command(tmp_path, "raise ConfigError('no such thing')")
    assert (done.returncode, done.stderr) == (1, "error: no such thing\n")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "raise OSError(28, 'No space left on device', '/scratch/x')")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full (/scratch/x)")


def test_what_the_machine_refuses_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "(__import__('pathlib').Path('/tmp') / config.run).mkdir()", f"run={'x' * 300}")
    assert done.returncode == 1
    assert done.stderr == f"error: the name is too long (/tmp/{'x' * 300}): choose a shorter one, then {AGAIN}\n"


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    done = command(tmp_path, "raise FileNotFoundError(2, 'No such file', '/scratch/x')")
    assert done.returncode == 1
    assert "program.py" in done.stderr
    assert "FileNotFoundError: [Errno 2] No such file" in done.stderr


def test_an_unknown_setting_is_refused_before_the_stage(tmp_path: Path) -> None:
    done = command(tmp_path, "pass", "rl.stepz=3")
    assert done.returncode == 2
    assert "unknown setting 'rl.stepz'; did you mean 'rl.steps'?" in done.stderr
    assert done.stdout == ""
