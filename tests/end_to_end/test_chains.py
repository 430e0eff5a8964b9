"""Chains as a user writes them: killed in the middle, by vLLM's own server, by rollout workers; then distillation reads
them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import ROOT, Runs, wait_until

from pipelines.config.compose import load_config
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import distillation_set

PREPARE = ("data.distill_pairs=90", "data.rl_pairs=2", "data.heldout_pairs=2")


@pytest.fixture(scope="module")
def prepared(runs: Runs) -> Path:
    """The tiny model, untrained, and 90 pairs, in the folder of run ``killed``."""
    runs("prepare", "killed", *PREPARE)
    return runs.path("killed")


@contextlib.contextmanager
def process(log: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that ends with the block."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait(timeout=30)


def journal_of(run: Path) -> list[dict[str, Any]]:
    path = run / "chains" / "journal.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def kill_at(runs: Runs, run: str, answers: int, *overrides: str) -> list[dict[str, Any]]:
    """Start the command and kill it when the journal has so many answers; returns them."""
    path = runs.path(run) / "chains" / "journal.jsonl"
    started = runs.start("chains", run, *overrides)
    wait_until(
        lambda: started.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= answers),
        120,
        f"{answers} answers in the journal",
    )
    assert started.poll() is None, started.communicate()
    os.kill(started.pid, signal.SIGKILL)
    started.wait(timeout=30)
    return journal_of(runs.path(run))


def chains_of(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "chains" / "chains.parquet").to_pylist()


def learnable(run: Path) -> int:
    """Chains that distillation reads from the set, with the run's own tokenizer."""
    config = load_config([f"data.chains={run / 'chains' / 'chains.parquet'}", "distill.max_tokens=2000"])
    return len(distillation_set(config, RunDirectory(run.parent, run.name), str(run / "model")).sequences)


@pytest.mark.slow
def test_killed_run_pays_for_no_finished_request_twice_and_ends_in_the_same_set(
    runs: Runs, prepared: Path, tmp_path: Path
) -> None:
    port, log = tmp_path / "port", tmp_path / "answered.log"
    server = (str(ROOT / "tests/support/teacher_server.py"), str(port), str(log), "90")
    with process(tmp_path / "server.log", *server, PYTHONPATH=str(ROOT)):
        wait_until(port.exists, 60, "the local server")
        teacher = ["chains.first.model=teacher-x", f"chains.first.base_url={port.read_text()}"]
        finished = kill_at(runs, "killed", 40, *teacher, "chains.first.requests_per_minute=1200")
        assert 40 <= len(finished) < 120
        runs("chains", "killed", *teacher)
        asked = Counter(log.read_text().split())
        assert all(asked[answer["key"]] == 1 for answer in finished)
        journal = journal_of(prepared)
        assert len({answer["key"] for answer in journal}) == len(journal) == 120
        (runs.path("whole") / "data").mkdir(parents=True)
        (runs.path("whole") / "data" / "distill.parquet").write_bytes((prepared / "data/distill.parquet").read_bytes())
        runs("chains", "whole", *teacher)
    assert chains_of(prepared) == chains_of(runs.path("whole"))
    assert learnable(prepared) == 90


def judgment(side: str) -> str:
    return f"<type>Reasoning</type><solution>so</solution><eval>match</eval><answer>[[{side}]]</answer>"


@pytest.mark.engine
@pytest.mark.slow
def test_vllm_server_writes_chains_across_a_kill(runs: Runs, prepared: Path, tmp_path: Path) -> None:
    """An untrained model held to two whole judgments by structured output: its verdicts are right by chance."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = "--served-model-name judge --host 127.0.0.1 --dtype float32 --enforce-eager --max-model-len 2048"
    server = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(prepared / "model"), "--port", str(port)]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    run = runs.path("engine")
    (run / "data").mkdir(parents=True)
    (run / "data" / "distill.parquet").write_bytes((prepared / "data" / "distill.parquet").read_bytes())
    choices = "['" + "','".join(judgment(side) for side in "AB") + "']"
    teacher = [
        "chains.first.model=judge",
        f"chains.first.base_url={url}/v1",
        f"chains.first.extra_body.structured_outputs.choice={choices}",
        "chains.first.temperature=1.0",
        "chains.limit=40",
        "chains.samples=2",
        "chains.hint=retry",
    ]
    with process(tmp_path / "vllm.log", *server, *settings.split(), **environment) as vllm:
        wait_until(lambda: vllm.poll() is not None or healthy(url), 240, "vLLM's server")
        assert vllm.poll() is None, (tmp_path / "vllm.log").read_text()[-3000:]
        finished = kill_at(runs, "engine", 20, *teacher, "chains.first.requests_per_minute=600")
        runs("chains", "engine", *teacher)
    journal = journal_of(run)
    assert journal[: len(finished)] == finished
    assert len({answer["key"] for answer in journal}) == len(journal)
    assert {answer["model"] for answer in journal} == {"judge"}
    assert all(answer["prompt_tokens"] > 10 and not answer["estimated"] for answer in journal)
    assert {answer["text"] for answer in journal} == {judgment("A"), judgment("B")}
    chains = chains_of(run)
    assert 20 < len(chains) <= 40
    assert all(row["chain"] == judgment(row["label"]) for row in chains)
    (run / "model").symlink_to(prepared / "model")
    assert learnable(run) == len(chains)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.ray
@pytest.mark.engine
@pytest.mark.slow
def test_rollout_workers_as_teachers(runs: Runs, prepared: Path) -> None:
    """The untrained model writes no verdicts: every answer is refused, counted and in the journal."""
    run = runs.path("local")
    (run / "data").mkdir(parents=True)
    (run / "data" / "distill.parquet").write_bytes((prepared / "data" / "distill.parquet").read_bytes())
    teacher = ["chains.first.kind=local", f"chains.first.model={prepared / 'model'}", "chains.first.temperature=2.0"]
    small = ["chains.limit=6", "chains.samples=2", "chains.hint=retry"]
    output = runs("chains", "local", *teacher, *small, status=1)
    assert "no chain could be kept (" in output
    assert "Traceback" not in output
    journal = journal_of(run)
    assert Counter(answer["round"] for answer in journal) == {0: 12, 1: 12}
    # Every request has a seed of its own: six prompts, asked four times each.
    assert len({answer["text"] for answer in journal}) > 12
    assert all(0 < answer["completion_tokens"] <= 64 and answer["prompt_tokens"] > 10 for answer in journal)
