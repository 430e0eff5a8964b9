"""Engines and learners in turn, on the real parts: the same traces, losses and weights as beside each other.

On CPU nothing of the memory moves; engines, learners and everything that asks for them keep the order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from actors.messages import Sampling
from pipelines.config.compose import load_config
from pipelines.job.session import Session
from pipelines.loop import generation
from pipelines.prepare import prepare
from pipelines.rl import rl
from pipelines.stages.stage import open_run

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

# The judge is untrained: what tells its traces apart is a reward function of our own.
FUNCTION = "def variety(judged):\n    return len(set(judged.text)) / 10\n"
SETTINGS = (
    *("data.distill_pairs=20", "data.rl_pairs=40", "data.heldout_pairs=4", "rl.steps=3", "rl.evaluate_every=2"),
    *("rl.evaluate_pairs=2", "rl.prompts_per_step=8", "rl.mini_batch_prompts=4", "rl.checkpoints.every=2"),
    *("algorithm.samples=3", "learner.ranks=1", "tracking=off", "rl.learn_early=false"),
    *("algorithm.reward.verdict=1", "algorithm.reward.variety=1", "verifier.functions.variety.path=variety_of.variety"),
)
MOVES = {
    "engines sleep": "sleep",
    "learners take the devices": "on",
    "engines wake: weights": "weights",
    "learners leave the devices": "off",
    "engines wake: kv_cache": "awake",
}
TURN = ["sleep", "on", "weights", "off", "awake"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The folders of two runs of RL that differ in nothing else."""
    import ray

    folder = tmp_path_factory.mktemp("shared")
    (folder / "variety_of.py").write_text(FUNCTION)
    # A cluster that other files of this test worker share began without that folder in its PYTHONPATH.
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        # A trace's randomness is its own, so that it does not depend on what is written beside it.
        patch.setattr(generation, "Sampling", partial(Sampling, seed=5))
        for name, shares in (("apart", "false"), ("shared", "true")):
            own = (f"output_root={folder}", f"run={name}", f"rl.policy={folder}/{name}/model")
            config = load_config([*SETTINGS, *own, f"cluster.share_devices={shares}"])
            with open_run(config) as run, Session(config, run) as session:
                prepare(config, run)
                rl(config, session)
        yield {name: folder / name for name in ("apart", "shared")}


def steps(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["stage"] == "rl" and "time/step" in line["metrics"]]


def test_traces_losses_and_weights_are_the_same(runs: dict[str, Path]) -> None:
    apart, shared = steps(runs["apart"]), steps(runs["shared"])
    assert [step["weight_version"] for step in shared] == [1, 2, 3]
    for one, other in zip(apart, shared, strict=True):
        assert one["grad_norm"] > 0
        assert other["staleness_max"] == 0
        assert other["logprob_difference"] < 2e-6
        for name in ("reward", "completion_tokens", "policy_loss", "kl", "grad_norm", "entropy"):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    for step in (1, 2, 3):
        rows = [pq.read_table(next(run.rglob(f"rl-rollouts-{step:06d}.parquet"))) for run in runs.values()]
        assert rows[0].column("text").to_pylist() == rows[1].column("text").to_pylist()
    weights = [load_file(run / "rl" / "hf" / "model.safetensors") for run in runs.values()]
    start = load_file(runs["apart"] / "model" / "model.safetensors")
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-6, rtol=0)
    assert any((weights[0][name] - start[name]).abs().max() > 1e-5 for name in start), "they were trained"


def test_each_had_the_devices_in_turn_and_for_how_long_is_logged(runs: dict[str, Path]) -> None:
    log = (runs["shared"] / "logs" / "driver.log").read_text()
    moves = [MOVES[what] for what in re.findall(r"turn: (.*), [\d.]+ s", log)]
    # Weights pass before the first step and after each. Learners keep the devices from the checkpoint of the second
    # step, which is written when the third's traces are, to the learning that follows; the last checkpoint and the
    # export need them once more, and the last judging the engines.
    assert moves == [*TURN * 4, "sleep", "on", "off", "weights", "awake"]
    second = steps(runs["shared"])[1]
    assert second["time/sleep"] + second["time/onload"] < second["time/learn"]
    assert second["time/wake"] + second["time/offload"] < second["time/publish"]
    for step in steps(runs["shared"]):
        assert all(step[f"time/{name}"] > 0 for name in ("sleep", "wake", "offload", "onload"))
        assert 0 < step["memory/learners"] < 8
        assert 0 < step["memory/engines"] < 8
    assert not [name for step in steps(runs["apart"]) for name in step if name.startswith("memory/")]
