"""Adapters: steps equal plain peft, one rank equals two, the reference is the base, what is published is merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_ranks import LORA, OPTIMIZERS, POLICY, adapted, build_model, cut, policy, sequences, weights
from safetensors.torch import load_file
from small_settings import small_learner, small_lora, small_optimizer, small_policy

from actors.learner.actor import Learner
from actors.learner.lora import add_adapters
from actors.learner.settings import ModelError
from actors.messages import TrainingSequence

PLAIN = small_optimizer(name="adamw", learning_rate=1e-2, gradient_clip=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_model(tmp_path_factory.mktemp("lora") / "model")


@pytest.fixture
def adapting(learner: Learner) -> Learner:
    """A rank that trains adapters."""
    return with_settings(learner, lora=LORA)


def with_settings(learner: Learner, **settings: Any) -> Learner:
    other = copy.copy(learner)
    other._settings = small_learner(**settings)
    return other


def plain_model(path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def logprobs(lm: Any, item: TrainingSequence) -> torch.Tensor:
    tokens = torch.tensor(np.concatenate([item.prompt_ids, item.completion_ids]), dtype=torch.int64)
    full = torch.log_softmax(lm(tokens[None]).logits[0], dim=-1)
    return full[:-1].gather(1, tokens[1:, None])[len(item.prompt_ids) - 1 :, 0]


@pytest.mark.slow
def test_steps_equal_plain_peft(adapting: Learner, model: str) -> None:
    items = sequences(5, 3)
    adapting.load(model, None, PLAIN)
    losses = [adapting.supervised_step(*cut(items, 0, 1))["loss"] for _ in range(3)]

    lm = plain_model(model)
    add_adapters(lm, LORA, seed=0)
    optimizer = torch.optim.AdamW(
        [p for p in lm.parameters() if p.requires_grad], lr=1e-2, betas=(0.9, 0.95), weight_decay=0
    )
    expected = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -torch.cat([logprobs(lm, item) for item in items]).mean()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[2] < losses[0] - 0.05
    # peft's own way of folding adapters in.
    for module in lm.modules():
        if hasattr(module, "merge"):
            module.merge()
    ours = weights(adapting)
    theirs = {name.replace(".base_layer", ""): tensor for name, tensor in lm.named_parameters() if ".lora_" not in name}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor.detach(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_only_the_targets_change(learner: Learner, model: str) -> None:
    adapting = with_settings(learner, lora=small_lora(rank=3, targets=("q_proj", "mlp.down_proj")))
    adapting.load(model, None, PLAIN)
    before = weights(adapting)
    adapting.supervised_step(*cut(sequences(5, 3), 0, 1))
    changed = {name for name, tensor in weights(adapting).items() if not torch.equal(tensor, before[name])}
    assert changed == {
        f"model.layers.{layer}.{name}.weight" for layer in range(2) for name in ("self_attn.q_proj", "mlp.down_proj")
    }
    start = plain_model(model).state_dict()
    assert all(torch.equal(tensor, start[name]) for name, tensor in before.items())


@pytest.mark.slow
def test_the_reference_is_the_policy_without_adapters(adapting: Learner, learner: Learner, model: str) -> None:
    """The same KL as of the merged policy to a reference of its own."""
    adapting.load(model, model, PLAIN)
    items = sequences(5, 4, old=True)
    assert policy(adapting, items, POLICY)["kl"] == pytest.approx(0.0, abs=1e-7)
    second = policy(adapting, items, POLICY)
    assert second["kl"] > 1e-3

    adapting.load(model, model, PLAIN)
    policy(adapting, items, POLICY)
    adapting.export(str(Path(model).parent / "merged"))
    learner.load(str(Path(model).parent / "merged"), model, PLAIN)
    apart = policy(learner, items, POLICY)
    for name in ("kl", "loss", "ratio_mean", "clip_fraction"):
        assert second[name] == pytest.approx(apart[name], rel=1e-4), name


@pytest.mark.slow
def test_what_is_published_and_exported_is_merged(adapting: Learner, model: str, tmp_path: Path) -> None:
    items = sequences(4, 6)
    adapting.load(model, None, PLAIN)
    for _ in range(3):
        adapting.supervised_step(*cut(items, 0, 1))
    adapting.export(str(tmp_path / "exported"))
    update = adapting.publish(1, str(tmp_path), "float32")
    assert update is not None
    lm = plain_model(str(tmp_path / "exported"))
    published = load_file(update.path)
    assert published.keys() == {name for name, _ in lm.named_parameters()}
    assert all(torch.equal(published[name], tensor) for name, tensor in lm.named_parameters())
    micro, _ = cut(items, 0, 1)
    for batch, answers in zip(micro, adapting.logprobs(micro, 1.0), strict=True):
        for item, ours in zip(batch, answers, strict=True):
            np.testing.assert_allclose(ours, logprobs(lm, item).detach().numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_holds_the_adapters_alone_and_continues_exactly(
    adapting: Learner, model: str, tmp_path: Path
) -> None:
    from torch.distributed.checkpoint import FileSystemReader

    adapting.load(model, model, OPTIMIZERS["adamw"])
    adapting.supervised_step(*cut(sequences(5, 1), 0, 1))
    adapting.save(str(tmp_path / "step-000001"), {"step": 1})
    stored = FileSystemReader(tmp_path / "step-000001").read_metadata().state_dict_metadata
    assert {name for name in stored if name.startswith("model.")}
    assert all(
        ".lora_" in name or "embed_tokens" in name or "lm_head" in name for name in stored if name.startswith("model.")
    )
    expected = [adapting.supervised_step(*cut(sequences(5, step), 0, 1)) for step in (2, 3)]
    adapting.load(model, model, OPTIMIZERS["adamw"])
    assert adapting.restore(str(tmp_path / "step-000001")) == {"step": 1}
    assert [adapting.supervised_step(*cut(sequences(5, step), 0, 1)) for step in (2, 3)] == expected


@pytest.mark.slow
def test_a_checkpoint_of_the_whole_model_is_refused(
    learner: Learner, adapting: Learner, model: str, tmp_path: Path
) -> None:
    learner.load(model, None, PLAIN)
    learner.save(str(tmp_path / "step-000001"), {})
    adapting.load(model, None, PLAIN)
    with pytest.raises(RuntimeError, match="does not fit this model"):
        adapting.restore(str(tmp_path / "step-000001"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"packing": True}, {"activation_checkpointing": True}, {"reshard_after_forward": False}]
)
def test_other_settings_change_nothing(learner: Learner, model: str, settings: dict[str, Any]) -> None:
    plain, other = adapted(learner, 1, model), adapted(learner, 1, model, **settings)
    for name, tensor in plain["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, atol=1e-5, rtol=0)
    for mine, theirs in zip(plain["metrics"], other["metrics"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_bfloat16_keeps_the_frozen_layers_in_it(learner: Learner, model: str) -> None:
    adapting = with_settings(learner, lora=LORA, dtype="bfloat16")
    adapting.load(model, model, PLAIN)
    kept = {".lora_" in name: p.dtype for name, p in adapting._trainer.judge.named_parameters()}
    assert kept == {True: torch.float32, False: torch.bfloat16}
    first = policy(adapting, sequences(4, 2), small_policy())
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["grad_norm"] > 0


@pytest.mark.slow
def test_a_target_that_matches_no_layer_is_named(learner: Learner, model: str) -> None:
    adapting = with_settings(learner, lora=small_lora(targets=("q_proj", "query")))
    with pytest.raises(ModelError, match=r"learner\.lora\.targets: 'query' .* there are .*q_proj"):
        adapting.load(model, None, PLAIN)
    # The output embedding is used outside its layer, where no adapter would be seen.
    with pytest.raises(ModelError, match="'lm_head'"):
        with_settings(learner, lora=small_lora(targets=("lm_head",))).load(model, None, PLAIN)


def test_another_reference_is_refused(adapting: Learner, model: str, tmp_path: Path) -> None:
    other = build_model(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"learner\.lora\.rank=0"):
        adapting.load(model, other, PLAIN)
