"""Losses and gradients against TRL's trainers where they have the same objective; needs the extra ``bench``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_ranks import build_model, policy, sequences
from small_settings import small_optimizer

from actors.learner.actor import Learner
from actors.messages import TrainingSequence
from pipelines.config.compose import load_config
from pipelines.job.settings import policy_settings

pytestmark = pytest.mark.slow

ITEMS, LIMIT = 9, 40
# Our overrides, TRL's trainer, TRL's arguments. In TRL, CISPO's bound is that of the ratio itself.
CASES: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    # TRL weighs the KL by the policy ratio unless told otherwise.
    "rm_r1": (("algorithm=rm_r1",), "GRPO", {"loss_type": "dapo", "beta": 1e-3, "use_bias_correction_kl": False}),
    "more KL": (
        ("algorithm=rm_r1", "algorithm.kl_coefficient=0.5"),
        "GRPO",
        {"loss_type": "dapo", "beta": 0.5, "use_bias_correction_kl": False},
    ),
    "dr_grpo": (("algorithm=dr_grpo",), "GRPO", {"loss_type": "dr_grpo"}),
    "dapo": (("algorithm=dapo",), "GRPO", {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dual clip": (
        ("algorithm=dapo", "algorithm.dual_clip=2"),
        "GRPO",
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 2.0},
    ),
    "gspo": (
        ("algorithm=gspo",),
        "GRPO",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "cispo": (("algorithm=cispo",), "GRPO", {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sequence means": (
        ("algorithm=rm_r1", "algorithm.aggregation=sequence_mean", "algorithm.kl_coefficient=0"),
        "GRPO",
        {"loss_type": "grpo"},
    ),
    "rloo": (("algorithm=rloo",), "RLOO", {}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Policy and reference; skipped where TRL is not installed."""
    pytest.importorskip("trl", reason="TRL comes with the extra `bench`")
    folder = tmp_path_factory.mktemp("trl")
    return build_model(folder / "model"), build_model(folder / "reference", seed=1)


def their_loss(models: tuple[str, str], items: list[TrainingSequence], kind: str, arguments: dict[str, Any]) -> Any:
    """Loss and gradient norm of TRL's trainer on the same traces."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = {"beta": 0.0, "epsilon": 0.2} | arguments
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(Path(models[0]).parent / "trl"),
        per_device_train_batch_size=ITEMS,
        gradient_accumulation_steps=1,
        num_generations=3,
        max_completion_length=LIMIT,
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        report_to="none",
        **arguments,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=models[0],
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w3"}] * ITEMS),
        processing_class=AutoTokenizer.from_pretrained(models[0]),
    )
    trainer.current_gradient_accumulation_steps = 1
    inputs = padded(items)
    if arguments["beta"]:
        reference = AutoModelForCausalLM.from_pretrained(models[1], dtype=torch.float32)
        trainer.ref_model.load_state_dict(reference.state_dict())
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            width = inputs["completion_ids"].shape[1]
            logprobs, *_ = trainer._get_per_token_logps_and_entropies(trainer.ref_model, ids, mask, width)
            inputs["ref_per_token_logps"] = logprobs
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients).norm().item()


def padded(items: list[TrainingSequence]) -> dict[str, torch.Tensor]:
    """TRL's form: prompts padded on the left, completions on the right."""

    def rows(values: list[Any], left: bool, dtype: torch.dtype) -> torch.Tensor:
        width = max(len(value) for value in values)
        full = torch.zeros(len(values), width, dtype=dtype)
        for row, value in zip(full, values, strict=True):
            row[width - len(value) if left else 0 :][: len(value)] = torch.as_tensor(np.asarray(value), dtype=dtype)
        return full

    prompts, completions = [item.prompt_ids for item in items], [item.completion_ids for item in items]
    old = rows([item.old_logprobs for item in items], False, torch.float32)
    return {
        "prompt_ids": rows(prompts, True, torch.int64),
        "prompt_mask": rows([np.ones(len(ids)) for ids in prompts], True, torch.int64),
        "completion_ids": rows(completions, False, torch.int64),
        "completion_mask": rows([np.ones(len(ids)) for ids in completions], False, torch.int64),
        "advantages": torch.tensor([float(item.advantage) for item in items]),
        "old_per_token_logps": old,
        "old_logps": old.sum(1),
        "num_items_in_batch": torch.tensor(float(sum(map(len, completions)))),
    }


@pytest.mark.parametrize("case", CASES)
def test_the_same_objective_is_the_same_number(learner: Learner, models: tuple[str, str], case: str) -> None:
    overrides, kind, arguments = CASES[case]
    config = load_config([*overrides, f"model.max_response_tokens={LIMIT}"])
    # Old policies near enough for ratios on both sides of every bound.
    learner.load(*models, small_optimizer(learning_rate=1e-3, gradient_clip=0.0))
    items = sequences(ITEMS, 7)
    rng, spread = np.random.default_rng(3), 1.2 if case == "cispo" else 0.4
    items = [
        dataclasses.replace(item, old_logprobs=logprobs + rng.normal(0, spread, len(logprobs)).astype(np.float32))
        for item, logprobs in zip(items, learner.logprobs([items], 1.0)[0], strict=True)
    ]
    ours = policy(learner, items, policy_settings(config, config.algorithm))
    loss, norm = their_loss(models, items, kind, arguments)
    # In float32, and of rows that the two pad differently: kernels add up in orders that differ by processor, and old
    # policies far from the new make factors of their differences. 1e-5 was seen on one with AVX2.
    assert ours["loss"] == pytest.approx(loss, rel=5e-5, abs=1e-6)
    assert ours["grad_norm"] == pytest.approx(norm, rel=5e-5, abs=1e-6)
    assert 0 < ours["clip_fraction"] < 1
