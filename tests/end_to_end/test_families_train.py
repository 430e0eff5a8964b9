"""The families of the recipes at small size: distilled, reinforced and judged on the real parts, two steps each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_families import FAMILIES, build_family

from pipelines.config.compose import load_config
from pipelines.distill import distill
from pipelines.job.session import Session
from pipelines.prepare import prepare
from pipelines.rl import rl
from pipelines.stages.stage import open_run

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow]

# The judge is random: what tells its traces apart is a reward function of our own.
FUNCTION = "def variety(judged):\n    return len(set(judged.text)) / 10\n"
COMMON = (
    "data.distill_pairs=6",
    "data.rl_pairs=20",
    "data.heldout_pairs=2",
    "distill.epochs=1",
    "distill.batch_size=6",
    "distill.max_tokens=1024",
    "distill.optimizer.name=adamw",
    "distill.checkpoints.every=2",
    "model.max_prompt_tokens=768",
    "model.max_response_tokens=32",
    "rl.steps=2",
    "rl.evaluate_every=0",
    "rl.prompts_per_step=8",
    "rl.mini_batch_prompts=4",
    "rl.checkpoints.every=2",
    "rl.optimizer.learning_rate=1e-3",
    "algorithm.samples=3",
    "algorithm.equal_reward_groups=keep",
    "algorithm.kl_coefficient=1e-3",
    "algorithm.reward.variety=1",
    "verifier.functions.variety.path=variety_of_letters.variety",
    "learner.ranks=1",
    "tracking=off",
)
OWN = {
    "llama3_1": ("learner.packing=true",),
    "gemma3": ("learner.packing=false", "learner.activation_checkpointing=true"),
    "qwen3": ("learner.packing=true", "model.chat_template_kwargs.enable_thinking=false"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Folders of the families' runs."""
    import ray

    folder = tmp_path_factory.mktemp("families")
    (folder / "variety_of_letters.py").write_text(FUNCTION)
    # A cluster that other files of this test worker share began without that folder in its PYTHONPATH.
    ray.shutdown()
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in FAMILIES:
            model = build_family(name, folder / "models" / name)
            settings = (*COMMON, *OWN[name], f"output_root={folder}", f"run={name}", f"model.path={model}")
            config = load_config(list(settings))
            with open_run(config) as run, Session(config, run) as session:
                prepare(config, run)
                distill(config, session)
                rl(config, session)
                found[name] = run.path
        yield found


def steps(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["stage"] == stage]


@pytest.mark.parametrize("name", FAMILIES)
def test_engine_and_learner_agree_on_every_token(trained: dict[str, Path], name: str) -> None:
    """Under distilled weights, and again after a step of RL, which the engines got in flight."""
    reinforced = steps(trained[name], "rl")
    assert [step["weight_version"] for step in reinforced] == [1, 2]
    for step in reinforced:
        assert 0 < step["logprob_difference_max"] < 2e-5
        assert step["grad_norm"] > 0
        assert (step["skipped_steps"], step["generation_failures"], step["reward_failures"]) == (0, 0, 0)
    assert reinforced[0]["kl"] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_learns_chains_and_is_judged(trained: dict[str, Path], name: str) -> None:
    first, second = steps(trained[name], "distill")
    assert second["loss"] < first["loss"]
    summary = json.loads((trained[name] / "summary.json").read_text())
    assert [summary[row]["n"] for row in ("before", "distill", "rl")] == [2, 2, 2]
    exported = json.loads((trained[name] / "rl/hf/config.json").read_text())
    source = json.loads((trained[name].parent / "models" / name / "config.json").read_text())
    assert exported["architectures"] == source["architectures"]
    assert exported.get("tie_word_embeddings") == source.get("tie_word_embeddings")


def test_prompts_of_the_run_end_in_a_thought_that_is_over(trained: dict[str, Path]) -> None:
    from pipelines.data.tokens import chat_tokenizer
    from pipelines.judgment.in_process import settings_of
    from pipelines.stages.inputs import tokenizer_of

    model = trained["qwen3"] / "rl" / "hf"
    settings = settings_of(str(model))
    assert "model.chat_template_kwargs.enable_thinking=false" in settings
    tokenizer = tokenizer_of(load_config([*settings]), str(model))
    (ids,) = chat_tokenizer(tokenizer).ids([chat_tokenizer(tokenizer).prompt([{"role": "user", "content": "x"}])])
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
