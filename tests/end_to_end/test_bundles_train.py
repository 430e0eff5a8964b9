"""Every bundle trains the built-in family for two steps on the real parts: one engine, one verifier, learners anew."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.compose import load_config
from pipelines.job.session import Session
from pipelines.prepare import prepare
from pipelines.rl import rl
from pipelines.stages.stage import open_run

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

# The judge is untrained: what tells its traces apart is a reward function of our own. One verifier serves all bundles,
# so all have the same components.
FUNCTION = "def variety(judged):\n    return len(set(judged.text)) / 10\n"
COMMON = (
    "data.distill_pairs=20",
    "data.rl_pairs=40",
    "data.heldout_pairs=2",
    "rl.steps=2",
    "rl.evaluate_every=0",
    "rl.prompts_per_step=8",
    "rl.mini_batch_prompts=4",
    "rl.checkpoints.every=2",
    "rollout.prefix_caching=false",
    "learner.ranks=1",
    "tracking=off",
    "overwrite=true",
    "algorithm.reward.verdict=1",
    "algorithm.reward.format=0",
    "algorithm.reward.overlong=1",
    "algorithm.reward.swap_consistency=0.5",
    "algorithm.reward.variety=1",
    "verifier.functions.variety.path=variety_rewards.variety",
)
BUNDLES = {
    "rm_r1": ("algorithm.samples=3",),
    "dr_grpo": ("algorithm.samples=3",),
    "dapo": ("algorithm.samples=3",),
    "gspo": ("algorithm.samples=3",),
    "gmpo": ("algorithm.samples=3",),
    "cispo": ("algorithm.samples=3",),
    "rloo": ("algorithm.samples=3",),
    "reinforce_pp": (),
    "rm_r1_async": ("algorithm.samples=3",),
    "one version behind": (
        "algorithm=rm_r1",
        "algorithm.samples=3",
        "algorithm.max_staleness=1",
        "algorithm.correction=truncate",
        "algorithm.entropy_coefficient=0.01",
        "algorithm.kl_target=0.01",
    ),
    # 48 pairs a step of 40 that there are: some occur twice, as they do where an epoch ends within a batch.
    "more than an epoch": (
        "algorithm=rm_r1",
        "algorithm.samples=2",
        "rl.epochs=3",
        "rl.prompts_per_step=96",
        "rl.mini_batch_prompts=96",
    ),
    "adapters": ("algorithm=rm_r1", "algorithm.samples=3", "learner.lora.rank=4", "rl.optimizer.learning_rate=1e-3"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Metrics of each bundle's steps."""
    import ray

    folder = tmp_path_factory.mktemp("bundles")
    (folder / "variety_rewards.py").write_text(FUNCTION)
    # A cluster that other files of this test worker share began without that folder in its PYTHONPATH.
    ray.shutdown()
    common = (*COMMON, f"output_root={folder}", "run=bundles", f"rl.policy={folder}/bundles/model")
    seen: dict[str, list[dict[str, Any]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        first = load_config(list(common))
        with open_run(first) as run, Session(first, run) as session:
            prepare(first, run)
            for name, overrides in BUNDLES.items():
                bundle = () if overrides[:1] and overrides[0].startswith("algorithm=") else (f"algorithm={name}",)
                session.config = load_config([*common, *bundle, *overrides])
                if session.config.learner.lora.rank:
                    session.release_learners()  # Ranks keep the settings that they started with.
                rl(session.config, session)
                lines = [json.loads(line) for line in Path(run.metrics_file).read_text().splitlines()]
                seen[name] = [line["metrics"] for line in lines if line["stage"] == "rl"]
        yield seen


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_trains_with_finite_numbers(trained: dict[str, list[dict[str, Any]]], name: str) -> None:
    steps = trained[name]
    assert [step["weight_version"] for step in steps] == [1, 2]
    for step in steps:
        assert all(math.isfinite(value) for value in step.values())
        assert step["optimizer_steps"] == (1 if name == "more than an epoch" else 2)
        assert step["grad_norm"] > 0
        assert (step["skipped_steps"], step["reward_failures"], step["generation_failures"]) == (0, 0, 0)
        assert step["reward/swap_consistency"] == -1, "an untrained judge gives no verdict in either order"
        assert step["reward/variety"] > 0
        assert step["reward"] == pytest.approx(
            step["reward/verdict"] + step["reward/overlong"] - 0.5 + step["reward/variety"], abs=1e-6
        )
        assert step["logprob_difference"] < 2e-6 or name in ("one version behind", "rm_r1_async")
    first = steps[0]
    assert first["staleness_max"] == 0
    assert first["ess"] == pytest.approx(1, abs=1e-3)


def test_what_a_bundle_adds_is_in_its_numbers(trained: dict[str, list[dict[str, Any]]]) -> None:
    assert all("kl" not in step for name in ("dr_grpo", "dapo", "gspo", "gmpo", "cispo") for step in trained[name])
    for name in ("rm_r1", "rloo", "reinforce_pp", "adapters"):
        assert abs(trained[name][0]["kl"]) < 0.05, "the reference is the policy the run starts from"
        assert "kl" in trained[name][1]
    # Token ratios stay inside 0.2 in a step or two; GSPO's bounds are 500 times narrower.
    assert trained["gspo"][1]["clip_fraction"] > trained["rm_r1"][1]["clip_fraction"]
    behind = trained["one version behind"]
    for steps in (behind, trained["rm_r1_async"]):
        assert [step["staleness_max"] for step in steps] == [0, 1]
    assert behind[0]["kl_coefficient"] != behind[1]["kl_coefficient"]
