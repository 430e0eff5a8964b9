"""The run's folder: one live writer, whole files, finished stages, and a history that can be rewound."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from actors.errors import MachineFault
from actors.files import atomic_path, write_text
from pipelines.config import Config
from pipelines.runs.folder import (
    RunDirectory,
    RunDirectoryBusy,
    RunDirectoryError,
    StageMissing,
)

HOLD = """
import os, subprocess, sys
from pipelines.runs.folder import RunDirectory
run = RunDirectory(sys.argv[1], "tiny")
run.acquire()
children = [subprocess.Popen(["sleep", "60"], close_fds=False).pid]
reading, writing = os.pipe()
forked = os.fork()
if forked == 0:
    os.write(writing, b"x")
    os.execvp("sleep", ["sleep", "60"]) if sys.argv[2] == "exec" else __import__("time").sleep(60)
os.read(reading, 1)
print(*children, forked, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory(tmp_path, "tiny") as directory:
        yield directory


def test_a_second_live_run_is_refused_and_named(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryBusy, match=f"{tmp_path}/tiny is in use by process {os.getpid()} on "):
        RunDirectory(tmp_path, "tiny").acquire()
    with pytest.raises(RunDirectoryBusy, match="already open for writing in this process"):
        run.acquire()
    with RunDirectory(tmp_path, "other"):
        pass
    run.release()
    with RunDirectory(tmp_path, "tiny"):
        pass


@pytest.mark.parametrize("child", ["exec", "fork"])
def test_a_killed_run_frees_the_folder_though_its_children_live(tmp_path: Path, child: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    children = [int(pid) for pid in holder.stdout.readline().split()]
    try:
        assert len(children) == 2
        with pytest.raises(RunDirectoryBusy, match=f"in use by process {holder.pid} on "):
            RunDirectory(tmp_path, "tiny").acquire()
        holder.kill()
        holder.wait()
        for pid in children:
            os.kill(pid, 0)
        with RunDirectory(tmp_path, "tiny"):
            pass
    finally:
        holder.kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        holder.stdin.close()
        holder.stdout.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(RunDirectoryError, match=r"tiny cannot be made a folder.*choose another output_root"):
        RunDirectory(tmp_path, "tiny").acquire()
    with pytest.raises(RunDirectoryError, match="cannot be made a folder"):
        RunDirectory(tmp_path / "tiny", "inner").acquire()
    (tmp_path / "nowhere").symlink_to("not-there")
    with pytest.raises(RunDirectoryError, match=r"inner cannot be made a folder .*nowhere"):
        RunDirectory(tmp_path / "nowhere", "inner").acquire()


def test_a_name_the_machine_refuses_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MachineFault, match=r"the name is too long \(.*/x{300}\): choose a shorter one"):
        RunDirectory(tmp_path, "x" * 300).acquire()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC])
def test_a_lock_the_machine_refuses_is_named_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    run = RunDirectory(tmp_path, "tiny")
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setattr("fcntl.flock", refuse)
        with pytest.raises(MachineFault, match=rf"\({tmp_path}/tiny\): .* run the same command again"):
            run.acquire()
    assert len(os.listdir("/proc/self/fd")) == before
    with run:
        assert (run.path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_folder_that_cannot_be_entered_is_not_kept_locked(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, "tiny")
    run.path.mkdir()
    run.logs.write_text("a file")
    with pytest.raises(RunDirectoryError, match=r"File exists: .*/tiny/logs"):
        run.acquire()
    run.logs.unlink()
    with RunDirectory(tmp_path, "tiny"):
        pass


def test_entering_clears_what_was_never_completed(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    for name in ("summary.json.tmp-1", "data/rl.parquet.tmp-2", "rl/hf.tmp-3/x", "checkpoints/rl/step-000002.tmp-4/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")
    whole = folder / "checkpoints/rl/step-000001/x"
    whole.parent.mkdir()
    whole.write_text("whole")
    with RunDirectory(tmp_path, "tiny"):
        assert list(folder.rglob("*.tmp-*")) == []
        assert whole.exists()


def test_a_failed_write_leaves_the_old_file(run: RunDirectory) -> None:
    run.write_json(run.summary_file, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json(run.summary_file, {"accuracy": float("nan")})

    def fail() -> None:
        with atomic_path(run.summary_file) as partial:
            partial.write_text("half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json") as error:
        fail()
    assert error.value.errno == errno.ENOSPC
    assert json.loads(run.summary_file.read_text()) == {"accuracy": 0.5}
    assert not list(run.path.glob("*.tmp-*"))


def test_parquet_round_trip_with_an_empty_column(run: RunDirectory) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "text": "größer\n", "verdict": "A", "cause": None},
        {"step": 2, "text": "", "verdict": None, "cause": None},
    ]
    path = run.trace_file("rl", "rollouts", 120)
    run.write_parquet(path, rows)
    assert path.name == "rl-rollouts-000120.parquet"
    assert pq.read_table(path).to_pylist() == rows
    assert str(pq.read_schema(path).field("cause").type) == "string"


def test_stages_remember_that_they_are_finished(run: RunDirectory, tmp_path: Path) -> None:
    assert not run.finished("rl")
    run.note("rl", wandb_id="abc")
    assert not run.finished("rl")
    run.mark_finished("rl")
    again = RunDirectory(tmp_path, "tiny")
    assert again.finished("rl")
    assert again.notes("rl")["wandb_id"] == "abc"
    assert not again.finished("distill")
    with pytest.raises(ValueError, match="'rll' is not a stage: prepare, distill, rl, evaluate"):
        run.finished("rll")


def test_what_is_missing_names_the_command(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "out", "x", recipe="qwen3_8b")
    with pytest.raises(StageMissing) as error:
        run.starting_policy(Config())
    assert str(error.value) == (
        f"{tmp_path}/out/x has no distilled model (distill/hf): "
        f"run `make distill RECIPE=qwen3_8b RUN=x ARGS=output_root={tmp_path}/out` first"
    )
    assert RunDirectory("outputs", "x", recipe="tiny").command("distill") == "make distill RUN=x"


def test_models_are_found_in_the_order_of_stages(run: RunDirectory) -> None:
    config = Config()
    with pytest.raises(StageMissing, match="no base model"):
        run.model_to_judge(config)
    run.model.mkdir()
    assert run.base_model(config) == str(run.path / "model")
    assert run.model_to_judge(config) == (str(run.path / "model"), "before")
    run.export_directory("distill").mkdir(parents=True)
    assert run.starting_policy(config) == str(run.path / "distill/hf")
    assert run.model_to_judge(config) == (str(run.path / "distill/hf"), "distill")
    run.export_directory("rl").mkdir(parents=True)
    assert run.model_to_judge(config) == (str(run.path / "rl/hf"), "rl")

    config.model.path = "org/base"
    config.rl.distil_first = False
    assert run.starting_policy(config) == "org/base"
    config.rl.policy, config.evaluate.model = "/models/p", "/models/e"
    assert run.starting_policy(config) == "/models/p"
    assert run.model_to_judge(config) == ("/models/e", "evaluate")


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("outputs", "tiny")
    monkeypatch.chdir("/")
    assert run.path == tmp_path / "outputs/tiny"
    assert run.command("rl") == "make rl RUN=tiny"


def line(stage: str, step: int) -> str:
    return json.dumps({"stage": stage, "step": step, "metrics": {"reward": step / 10}}) + "\n"


def test_rewind_forgets_only_later_steps_of_the_stage(run: RunDirectory) -> None:
    lines = [line("distill", 9), line("rl", 1), line("rl", 2), line("rl", 3), line("distill", 10)]
    run.metrics_file.write_text("".join(lines) + '{"stage": "rl", "st')
    for stage, part, step in (("rl", "rollouts", 2), ("rl", "rollouts", 3), ("rl", "heldout", 3), ("distill", "h", 9)):
        run.write_parquet(run.trace_file(stage, part, step), [{"step": step}])
    assert run.rewind("rl", 2) == 2
    assert run.metrics_file.read_text() == "".join([*lines[:3], lines[4]])
    assert sorted(file.name for file in run.traces.iterdir()) == [
        "distill-h-000009.parquet",
        "rl-rollouts-000002.parquet",
    ]
    assert run.rewind("rl", 2) == 0


def test_rewind_of_nothing(run: RunDirectory) -> None:
    assert run.rewind("rl", 0) == 0
    assert not run.metrics_file.exists()


def test_start_over_removes_a_stage_and_those_after_it(run: RunDirectory) -> None:
    for stage in ("prepare", "distill", "rl"):
        run.mark_finished(stage)
    for stage in ("distill", "rl"):
        (run.checkpoints(stage) / "step-000001").mkdir(parents=True)
        run.export_directory(stage).mkdir(parents=True)
        run.write_parquet(run.trace_file(stage, "rollouts", 1), [{"step": 1}])
        run.write_parquet(run.heldout_file(stage), [{"step": 0}])
    write_text(run.data / "rl.parquet", "pairs")
    run.metrics_file.write_text(line("distill", 1) + line("rl", 1))
    seconds = {"prepare": 1.0, "distill": 2.0, "rl": 3.0}
    run.update_summary(
        {"seed": 0, "before": {"n": 1}, "distill": {"n": 1}, "rl": {"n": 1}, "time_share": {}, "seconds": seconds}
    )

    run.start_over("rl")
    assert not run.finished("rl")
    assert run.finished("distill")
    assert run.summary() == {
        "seed": 0, "before": {"n": 1}, "distill": {"n": 1}, "seconds": {"prepare": 1.0, "distill": 2.0},
    }  # fmt: skip
    assert run.metrics_file.read_text() == line("distill", 1)
    assert not run.export_directory("rl").exists()
    assert not run.checkpoints("rl").exists()
    assert run.export_directory("distill").exists()
    assert sorted(file.name for file in run.traces.iterdir()) == [
        "distill-rollouts-000001.parquet",
        "heldout-distill.parquet",
    ]

    run.start_over("prepare")
    assert not run.finished("prepare")
    assert run.summary() == {"seed": 0, "seconds": {}}
    assert run.metrics_file.read_text() == ""
    assert sorted(entry.name for entry in run.path.iterdir()) == [
        ".lock", "checkpoints", "logs", "metrics.jsonl", "stages", "summary.json", "traces",
    ]  # fmt: skip
    run.start_over("prepare")


def test_a_run_is_told_from_all_others_and_stays_the_same(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, "one") as one, RunDirectory(tmp_path, "two") as two:
        names = {one.identity, two.identity}
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    with RunDirectory(tmp_path, "copy") as copy, RunDirectory(tmp_path, "one") as again:
        assert again.identity in names
        names.add(copy.identity)
    shutil.rmtree(tmp_path / "one")
    with RunDirectory(tmp_path, "one") as another:
        assert another.identity not in names
    assert len(names) == 3


def test_summary_merges_seconds_and_data_and_replaces_rows(run: RunDirectory) -> None:
    run.update_summary({"rl": {"accuracy": 0.1, "old": 1}, "seconds": {"rl": 1.0}, "data": {"rl": "a"}})
    summary = run.update_summary({"rl": {"accuracy": 0.9}, "seconds": {"distill": 2.0}})
    assert summary == {"rl": {"accuracy": 0.9}, "seconds": {"rl": 1.0, "distill": 2.0}, "data": {"rl": "a"}}
    assert run.summary() == summary
    run.summary_file.write_text("[1]")
    with pytest.raises(RunDirectoryError, match=r"summary\.json does not hold a JSON object"):
        run.summary()
    run.summary_file.write_text("{")
    with pytest.raises(RunDirectoryError, match=r"summary\.json cannot be read"):
        run.summary()


def test_hashes_are_of_the_bytes_of_data_files(run: RunDirectory) -> None:
    assert run.hashes() == {}
    write_text(run.data / "rl.parquet", "abc")
    assert run.hashes() == {"rl": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
