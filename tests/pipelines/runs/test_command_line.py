"""A stage as a command: what its errors and signals end in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def command(tmp_path: Path, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(body=body))
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(
        [sys.executable, str(program), f"hydra.run.dir={tmp_path}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": "", **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_stage_that_is_stopped_closes_what_it_opened(tmp_path: Path, number: str, status: int) -> None:
    done = command(tmp_path, f"os.kill(os.getpid(), signal.{number}); signal.pause()", "overwrite=true", "seed=3")
    assert done.returncode == status
    assert done.stdout == "closed\n"
    assert f"interrupted by {number}. Run the same command again to continue from the last checkpoint:" in done.stderr
    again = done.stderr.rstrip().splitlines()[-1]
    assert again.endswith("program.py hydra.run.dir=" + str(tmp_path) + " seed=3"), (
        "without overwrite, which starts over"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_defect_in_an_actor_shows_its_traceback_too(tmp_path: Path) -> None:
    body = """
        from actors.deadlines import ActorFailed
        error = ActorFailed("a step: learner rank 0 (log: l.log) failed: KeyError: 'x'")
        error.is_defect = {defect}
        raise error from KeyError("x")
"""
    shown = command(tmp_path, body.format(defect=True))
    assert (shown.returncode, "Traceback" in shown.stderr, "log: l.log" in shown.stderr) == (1, True, True)
    told = command(tmp_path, body.format(defect=False))
    assert told.stderr == "error: a step: learner rank 0 (log: l.log) failed: KeyError: 'x'\n"


LOOP = """
        from pipelines.runs import interruption
        with interruption.at_step_ends({grace}, lambda: "rl after step-000002"):
            for step in range(3):
                {step}
                print("saved", step, flush=True)
                if interruption.requested():
                    break
"""


@pytest.mark.slow
def test_a_loop_saves_at_the_end_of_its_step(tmp_path: Path) -> None:
    done = command(tmp_path, LOOP.format(grace=600, step="os.kill(os.getpid(), signal.SIGTERM)"))
    assert (done.returncode, done.stdout) == (143, "saved 0\nclosed\n")
    assert "Run the same command again to continue rl after step-000002:" in done.stderr
    assert "SIGTERM: saving when this step ends, or stopping in 590 s" in done.stderr


@pytest.mark.slow
def test_a_step_that_takes_longer_than_the_grace_is_broken_off(tmp_path: Path) -> None:
    wait = "os.kill(os.getpid(), signal.SIGTERM); signal.pause(); signal.pause()"
    done = command(tmp_path, LOOP.format(grace=0.3, step=wait))
    assert (done.returncode, done.stdout) == (143, "closed\n")


@pytest.mark.slow
def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    wait = "os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)"
    done = command(tmp_path, LOOP.format(grace=600, step=wait))
    assert (done.returncode, done.stdout) == (130, "closed\n")


@pytest.mark.slow
def test_what_is_being_closed_is_closed_whole(tmp_path: Path) -> None:
    body = """
        from pipelines.runs import interruption
        with interruption.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            print("whole", flush=True)
        print("never")
"""
    done = command(tmp_path, body)
    assert (done.returncode, done.stdout) == (143, "whole\nclosed\n")


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """`nohup` has it ignored."""
    program = tmp_path / "nohup.py"
    program.write_text(
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from pipelines.runs import interruption\ninterruption.install()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\nprint('still here')\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env={"PYTHONPATH": root})
    assert done.stdout == "still here\n"


@pytest.mark.slow
def test_text_that_a_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    body = """print("\\N{GREEK SMALL LETTER ALPHA}"); raise ConfigError("no \\N{SNOWMAN} here")"""
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command(tmp_path, body, **ascii_only)
    assert (done.returncode, done.stdout, done.stderr) == (1, "\\u03b1\nclosed\n", "error: no \\u2603 here\n")


@pytest.mark.slow
def test_an_error_a_user_can_mend_is_one_message(tmp_path: Path) -> None:
    done = command(tmp_path, "raise ConfigError('no such thing')")
    assert (done.returncode, done.stderr) == (1, "error: no such thing\n")


@pytest.mark.slow
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "raise OSError(28, 'No space left on device', '/scratch/x')")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full (/scratch/x)")


@pytest.mark.slow
def test_what_the_machine_refuses_is_named(tmp_path: Path) -> None:
    done = command(tmp_path, "(__import__('pathlib').Path('/tmp') / config.run).mkdir()", f"run={'x' * 300}")
    assert done.returncode == 1
    assert done.stderr == f"error: the name is too long (/tmp/{'x' * 300}): choose a shorter one, then {AGAIN}\n"


@pytest.mark.slow
def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    done = command(tmp_path, "raise FileNotFoundError(2, 'No such file', '/scratch/x')")
    assert done.returncode == 1
    assert "program.py" in done.stderr
    assert "FileNotFoundError: [Errno 2] No such file" in done.stderr


@pytest.mark.slow
def test_a_defects_traceback_shows_no_key(tmp_path: Path) -> None:
    body = "raise RuntimeError('GET http://me:secret-word@host/?token=key-number-7 with ' + os.environ['MY_API_KEY'])"
    done = command(tmp_path, body, MY_API_KEY="sk-3141592653")
    assert done.returncode == 1
    assert "RuntimeError: GET http://***@host/?token=*** with ***" in done.stderr
    for secret in ("secret-word", "key-number-7", "sk-3141592653"):
        assert secret not in done.stderr + done.stdout


@pytest.mark.slow
def test_an_unknown_setting_is_refused_before_the_stage(tmp_path: Path) -> None:
    done = command(tmp_path, "pass", "rl.stepz=3")
    assert done.returncode == 2
    assert "unknown setting 'rl.stepz'; did you mean 'rl.steps'?" in done.stderr
    assert done.stdout == ""
