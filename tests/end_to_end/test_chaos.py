"""A short chaos run: faults of a fixed seed on real parts, and the table that is told of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commands import ROOT

from pipelines.faults.trial import rl_rows

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1600)]

TINY = (
    *("data.distill_pairs=200", "data.rl_pairs=400", "data.heldout_pairs=20", "distill.epochs=1", "rl.steps=12"),
    *("rl.prompts_per_step=8", "rl.mini_batch_prompts=8", "rl.checkpoints.every=2", "algorithm.samples=4"),
    "cluster.stuck_after=10",
)
# Engine, worker, ranks, verifier and driver, killed, stopped and without memory; the driver, which costs most, once.
SEED, FAULTS = 2703, 7
EXPECTED = {
    *(("kill", victim) for victim in ("engine core 0", "learner rank 0", "verifier", "driver")),
    *(("stop", "rollout worker 0"), ("no memory", "engine core 0"), ("no memory", "learner rank 0")),
}


def test_a_run_survives_the_faults_of_a_seed(tmp_path: Path) -> None:
    # A judge after six steps of distillation guesses: its accuracy says nothing, all other checks hold.
    command = [sys.executable, "-m", "pipelines.chaos", f"--seeds={SEED}", f"--faults={FAULTS}", "--margin=1"]
    process = subprocess.Popen(
        [*command, f"--output={tmp_path}", *TINY],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=1500)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    assert process.returncode == 0, out[-6000:]
    [run] = json.loads((tmp_path / "chaos.json").read_text())["runs"]
    assert run["problems"] == []
    assert {(fault["action"], fault["victim"]) for fault in run["faults"]} == EXPECTED
    for fault in run["faults"]:
        assert fault["noticed_after"] is not None
        assert fault["noticed_after"] <= fault["back_after"], fault
    assert f"{FAULTS} faults; 1 of 1 runs survived" in out
    # All that came back was counted and told; only the driver's death made it read a checkpoint.
    folder = tmp_path / f"seed-{SEED}"
    last = rl_rows(folder)[-1]["metrics"]
    told = " ".join((tmp_path / f"seed-{SEED}.run.out").read_text().split())
    # Of the second driver: the first had the verifier's death, and maybe an engine's.
    assert last["restarts/engine"] >= 2
    assert last["restarts/learner"] >= 2
    assert told.count("is back after") >= last["restarts/engine"] + last["restarts/learner"]
    assert told.count("continues after step") == 1
    assert "all ranks are restarted and go on from their copies of optimiser step" in told
