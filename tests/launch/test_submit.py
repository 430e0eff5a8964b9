"""Submitting: addresses, tokens, what travels with a job, and whole jobs on a cluster of our own."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import without_ray

from launch.entrypoint import entrypoint
from launch.submit import (
    PIPELINES,
    ROOT,
    SubmitError,
    authentication_mode,
    dashboard_address,
    main,
    runtime_env,
    token_source,
)
from pipelines.config.compose import load_config


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("127.0.0.1:8265/", "http://127.0.0.1:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_dashboard_address(given: str, url: str) -> None:
    assert dashboard_address(given) == url


@pytest.mark.parametrize("given", ["", "auto", "ray://head:10001", "http://", "http://host", "http://host:port"])
def test_an_address_that_is_none_is_named(given: str) -> None:
    with pytest.raises(SubmitError, match=r"ADDRESS=.* is not a job server's.*http://127\.0\.0\.1:8265"):
        dashboard_address(given)


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert main(["--address", address]) == 1
    assert f"error: no job server answers at {address}" in capsys.readouterr().err


def test_paths_are_made_absolute_and_arguments_quoted(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    overrides = ["recipe=tiny", "data.train=pairs.jsonl", "model.path=org/model", "run=a b;c"]
    command = entrypoint("rl", overrides, "/opt/python", Path("/code"), tmp_path)
    assert command == (
        f"/opt/python -m pipelines.rl recipe=tiny data.train={tmp_path}/pairs.jsonl model.path=org/model "
        "'run=a b;c' output_root=/code/outputs"
    )
    command = entrypoint("run", ["output_root=mine"], "python", Path("/code"), tmp_path)
    assert command == f"python -m pipelines.run output_root={tmp_path}/mine"
    assert entrypoint("run", ["output_root=/x"], "python", Path("/code"), tmp_path).endswith(" output_root=/x")


@pytest.mark.slow
def test_every_setting_that_holds_paths_is_made_absolute_and_no_other(tmp_path: Path) -> None:
    """Which settings do is said where they are declared; a name is not taken for the folder that happens to bear it."""
    for name in ("mine.jsonl", "my chains.parquet"):
        (tmp_path / name).touch()
    for name in ("rmb", "model", "tiny"):
        (tmp_path / name).mkdir()
    given_and_made = {
        "chains.pairs=mine.jsonl": f"chains.pairs={tmp_path}/mine.jsonl",
        "chains.first.model=model": f"chains.first.model={tmp_path}/model",
        "data.chains='my chains.parquet'": f"data.chains={tmp_path}/my chains.parquet",
        "++evaluate.model=model": f"++evaluate.model={tmp_path}/model",
        "evaluate.benchmarks=[rmb,mine.jsonl]": f"evaluate.benchmarks=['rmb','{tmp_path}/mine.jsonl']",
        "evaluate.paths.rmb=rmb": f"evaluate.paths.rmb={tmp_path}/rmb",
        "evaluate.paths={rmb: rmb}": f"evaluate.paths={{rmb:'{tmp_path}/rmb'}}",
        "data.mix.sources.a.path=mine.jsonl": f"data.mix.sources.a.path={tmp_path}/mine.jsonl",
        "output_root=new": f"output_root={tmp_path}/new",
        **{same: same for same in ("model.prompt=tiny", "recipe=tiny", "data=rmb", "run=model", "chains.limit=3")},
        **{same: same for same in ("model.path=org/model", "nothing.known=rmb", "~rl.policy", "rl.policy=null")},
    }
    command = entrypoint("chains", list(given_and_made), "python", Path("/code"), tmp_path)
    assert shlex.split(command)[3:] == list(given_and_made.values())
    # Hydra reads them back.
    config = load_config([made for made in given_and_made.values() if made.startswith(("chains", "evaluate"))])
    assert config.evaluate.benchmarks == ["rmb", str(tmp_path / "mine.jsonl")]


def test_every_stage_and_the_whole_run_can_be_submitted() -> None:
    assert PIPELINES == ("prepare", "distill", "rl", "evaluate", "chains", "run")
    assert all((ROOT / "pipelines" / f"{name}.py").is_file() for name in PIPELINES)


def test_the_interpreter_is_this_one_where_the_cluster_has_it(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "run.py").write_text("import sys; print(sys.executable, *sys.argv[1:])")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\necho other "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    command = entrypoint("run", ["a='b"], None, tmp_path, tmp_path)
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    def shell(line: str) -> str:
        return subprocess.check_output(["sh", "-c", line], cwd=tmp_path, env=environment, text=True)

    assert shell(command) == f"{sys.executable} a='b output_root={tmp_path}/outputs\n"
    elsewhere = command.replace(sys.executable, "/nowhere/bin/python")
    assert shell(elsewhere) == f"other -m pipelines.run a='b output_root={tmp_path}/outputs\n"


def test_only_named_variables_travel() -> None:
    environment = {"WANDB_API_KEY": "k", "HF_HOME": "/hf", "HF_TOKEN": "", "SECRET": "s", "PATH": "/bin"}
    settings = runtime_env(ROOT, environment)
    assert settings["env_vars"] == {"TOKENIZERS_PARALLELISM": "false", "WANDB_API_KEY": "k", "HF_HOME": "/hf"}
    assert settings["working_dir"] == str(ROOT)


def test_the_package_holds_the_code_and_nothing_else(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    for path in (
        "actors/learner/x.py", "pipelines/data/x.py", "conf/data/x.yaml", "launch/x.py", "setup.cfg", "bench/outputs/x",
        "outputs/run/x", "data/x", ".venv/x", ".git/x", "tests/x.py", "pipelines/__pycache__/x", ".mypy_cache/x",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    archive = tmp_path.with_suffix(".zip")
    create_package(str(tmp_path), archive, include_gitignore=True, excludes=runtime_env(ROOT, {})["excludes"])
    files = {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}
    assert files == {
        "actors/learner/x.py", "pipelines/data/x.py", "conf/data/x.yaml", "launch/x.py", "setup.cfg", "bench/outputs/x",
    }  # fmt: skip


def test_a_token_is_used_where_there_is_one(tmp_path: Path) -> None:
    assert token_source({}, tmp_path) is None
    assert authentication_mode({}, tmp_path) == "disabled"
    assert authentication_mode({"RAY_AUTH_TOKEN": "t"}, tmp_path) == "token"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert token_source({}, tmp_path) == str(tmp_path / ".ray" / "auth_token")
    assert token_source({"RAY_AUTH_TOKEN_PATH": "/t"}, tmp_path) == "RAY_AUTH_TOKEN_PATH"
    assert authentication_mode({}, tmp_path) == "token"
    assert authentication_mode({"RAY_AUTH_MODE": "disabled"}, tmp_path) == "disabled"


# Whole jobs. The pipeline is a stand-in that exits as its settings say; everything else is the real thing.

PIPELINE = """
import os, sys, time
settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
print("settings:", sorted(settings.items()), flush=True)
print("offline:", os.environ.get("HF_HUB_OFFLINE"), "copy:", os.getcwd() != settings["home"], flush=True)
if "lines" in settings:
    for number in range(int(settings["lines"])):
        print("line", number, flush=True)
while "wait" in settings:
    print("tick", flush=True)
    time.sleep(0.2)
sys.exit(int(settings.get("status", 0)))
"""


@dataclass(frozen=True)
class Cluster:
    address: str
    home: Path
    project: Path
    environment: dict[str, str]

    def command(self, *settings: str) -> list[str]:
        parts = [sys.executable, "-m", "launch.submit", "--address", self.address, "--"]
        return [*parts, f"home={self.project}", *settings]

    def submit(self, *settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*settings),
            cwd=self.project,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def jobs(self) -> dict[str, str]:
        command = [sys.executable, "-c", LIST_JOBS, self.address]
        return json.loads(subprocess.check_output(command, env=self.environment | TOKEN, text=True))


TOKEN = {"RAY_AUTH_MODE": "token"}
"""What Ray's own tools need to be told; the submission finds out itself."""

LIST_JOBS = """
import json, sys
from ray.job_submission import JobSubmissionClient
jobs = JobSubmissionClient(sys.argv[1]).list_jobs()
print(json.dumps({job.submission_id: job.status.value for job in jobs}))
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def end(process: subprocess.Popen[Any]) -> None:
    """End a process we started and everything it started."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that wants a token, on ports and in folders of its own; Ray's socket paths have to be short."""
    base = Path(tempfile.mkdtemp(prefix="rrm", dir="/tmp"))
    home, project = base / "home", base / "project"
    for name in ("actors", "launch", "pipelines"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pipelines" / "run.py").write_text(PIPELINE)
    home.mkdir()
    environment = without_ray() | {"HOME": str(home), "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    # What vLLM found out about models is no part of a home: without it every engine start takes seconds more.
    environment["VLLM_CACHE_ROOT"] = environment.get("VLLM_CACHE_ROOT", str(Path.home() / ".cache" / "vllm"))
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    port, dashboard, agent, client = free_ports(4)
    options = {
        "port": port, "dashboard-port": dashboard, "dashboard-agent-listen-port": agent, "num-cpus": 2,
        "temp-dir": base / "ray", "ray-client-server-port": client, "object-store-memory": 80 * 1024 * 1024,
    }  # fmt: skip
    log = (base / "head.log").open("w")
    command = [ray, "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    head = subprocess.Popen(command, env=environment | TOKEN, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while not _answers(dashboard):
            assert head.poll() is None, (base / "head.log").read_text()
            assert time.monotonic() < deadline, (base / "head.log").read_text()
            time.sleep(0.5)
        yield Cluster(f"http://127.0.0.1:{dashboard}", home, project, environment)
    finally:
        end(head)
        log.close()
        shutil.rmtree(base, ignore_errors=True)


def _answers(port: int) -> bool:
    import requests

    try:
        # 401 is an answer too: the server is up and wants its token.
        return requests.get(f"http://127.0.0.1:{port}/api/version", timeout=5).status_code in (200, 401)
    except requests.exceptions.RequestException:
        return False


@pytest.mark.ray
@pytest.mark.slow
class TestOnACluster:
    """In this order, so that the cluster serves all."""

    def test_success(self, cluster: Cluster) -> None:
        done = cluster.submit("lines=3000", "recipe=tiny")
        assert done.returncode == 0, done.stderr
        outputs = cluster.project / "outputs"
        assert f"('output_root', '{outputs}'), ('recipe', 'tiny')]" in done.stdout
        assert "offline: 1 copy: True" in done.stdout
        lines = [line for line in done.stdout.splitlines() if line.startswith("line ")]
        assert lines == [f"line {number}" for number in range(3000)]

    def test_failure(self, cluster: Cluster) -> None:
        done = cluster.submit("status=3", "lines=1")
        assert done.returncode == 1
        assert "line 0" in done.stdout
        assert done.stderr.endswith("failed: Job entrypoint command failed with exit code 3\n")
        assert len(done.stderr.splitlines()) == 2

    def test_a_missing_and_a_wrong_token_are_told_apart(self, cluster: Cluster, tmp_path: Path) -> None:
        done = cluster.submit(HOME=str(tmp_path))
        assert done.returncode == 1
        assert "wants a token, and no token was found here" in done.stderr
        assert "Traceback" not in done.stderr
        done = cluster.submit(RAY_AUTH_TOKEN="0" * 64)
        assert done.returncode == 1
        assert "wants a token, and the token from RAY_AUTH_TOKEN was refused" in done.stderr
        assert "Traceback" not in done.stderr

    def test_without_a_terminal_an_interrupt_leaves_the_job_running(self, cluster: Cluster) -> None:
        process = subprocess.Popen(
            cluster.command("wait=1", "lines=1"),
            cwd=cluster.project,
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("line 0"):
                    break
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, error
        running = [job for job, status in cluster.jobs().items() if status == "RUNNING"]
        assert len(running) == 1
        command = f"ray job stop --address {cluster.address} {running[0]}"
        assert f"RAY_AUTH_MODE=token {command}`" in error
        environment = cluster.environment | TOKEN | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(command.split(), env=environment, check=True, capture_output=True)
        assert cluster.jobs()[running[0]] == "STOPPED"

    def test_an_interrupt_asks_and_can_watch_on_and_stop(self, cluster: Cluster) -> None:
        before = set(cluster.jobs())
        terminal, inner = pty.openpty()
        process = subprocess.Popen(
            cluster.command("wait=1", "lines=1"),
            cwd=cluster.project,
            env=cluster.environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        try:
            text = read_until(terminal, lambda text: "line 0" in text)
            process.send_signal(signal.SIGINT)
            text += read_until(terminal, lambda text: "atch on?" in text)
            os.write(terminal, b"w\n")
            # Nothing of the log is written while it asks, so this tick comes from watching on.
            text += read_until(terminal, lambda text: "tick" in text)
            process.send_signal(signal.SIGINT)
            text += read_until(terminal, lambda text: "atch on?" in text)
            os.write(terminal, b"s\n")
            text += read_until(terminal, lambda text: False)
            assert process.wait(60) == 1, text
        finally:
            process.kill()
            os.close(terminal)
        assert text.count("line 0") == 1
        (job,) = set(cluster.jobs()) - before
        assert cluster.jobs()[job] == "STOPPED"
        assert f"job {job} stopped" in text


def read_until(terminal: int, found: Callable[[str], bool]) -> str:
    """Read a terminal until its text is as wanted, or its other side is closed; fail after a minute without output."""
    text = b""
    while not found(text.decode(errors="replace")):
        readable, _, _ = select.select([terminal], [], [], 60)
        assert readable, text.decode(errors="replace")
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        text += part
    return text.decode(errors="replace")


@pytest.mark.ray
@pytest.mark.engine
@pytest.mark.slow
def test_the_whole_run_gives_the_same_outputs_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """This repository's own pipeline, small, with real engines and learners, as a job."""
    from commands import SMALL

    command = [sys.executable, "-m", "launch.submit", "--pipeline", "run", "--address", cluster.address, "--"]
    job = subprocess.run(
        [*command, *SMALL, "learner.ranks=1", "rl.steps=3", "run=job", f"output_root={tmp_path}"],
        cwd=ROOT,
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert job.returncode == 0, job.stdout[-4000:] + job.stderr[-4000:]
    assert "report.html" in job.stdout
    run = tmp_path / "job"
    summary = json.loads((run / "summary.json").read_text())
    assert {"before", "distill", "rl", "seconds", "data", "time_share"} <= set(summary)
    assert (run / "report.html").is_file()
    assert (run / "rl" / "hf" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["metrics"] for line in lines if line["stage"] == "rl"]
    assert len(steps) == 3
    assert max(step["logprob_difference"] for step in steps) < 2e-6
    assert max(step["logprob_difference_max"] for step in steps) < 1e-4
