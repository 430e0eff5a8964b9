"""`python -m pipelines.reward` as a process: what it answers, how it ends, and what keeps it from serving."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from commands import ROOT, wait_until
from families import FAMILIES
from scripted_engines import ScriptedEngines, longer
from served import app_of, listening

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def started(*settings: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.reward", *settings],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_it_rewards_and_lets_running_requests_end() -> None:
    port = free_port()
    engines = ScriptedEngines(FAMILIES["qwen2_5"](), longer)
    settings = (f"reward.port={port}", "reward.group_size=2", "reward.wait=2")
    with (
        listening(app_of(engines, keys=("the-judges-key",))) as address,
        started(*settings, f"reward.judge={address}", JUDGE_API_KEY="the-judges-key") as process,
    ):
        base = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with contextlib.suppress(httpx2.HTTPError):
                return httpx2.get(f"{base}/health").status_code == 200
            return process.poll() is not None

        wait_until(answers, 120, "the server")
        both = {"query": ["qx", "qxx"], "prompts": ["q", "q"], "labels": ["", ""]}
        assert httpx2.post(f"{base}/openrlhf", json=both, timeout=60).json()["rewards"] == [0.0, 1.0]
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 143, error
        assert "Traceback" not in out + error


def test_what_keeps_it_from_serving_is_one_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key\n")
    keys.chmod(0o644)
    port = free_port()
    for settings, said in (
        ((f"reward.judge=http://127.0.0.1:{port}",), "no judge answers at"),
        (("reward.judge=outputs/tiny/rl/hf",), "is no address"),
        (("reward.host=0.0.0.0",), "reward.keys is not set"),
        ((f"reward.keys={keys}",), "chmod 600"),
        (("reward.short=drop",), "judge, refuse"),
    ):
        with started(*settings) as process:
            out, error = process.communicate(timeout=120)
        assert process.returncode not in (0, None)
        assert said in error
        assert "Traceback" not in out + error
