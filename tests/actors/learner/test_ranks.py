"""Learner ranks: one equals two, the cut of a batch changes nothing, steps equal plain PyTorch, exports load back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judge_ranks import (
    BUDGET,
    OPTIMIZERS,
    POLICY,
    build_model,
    cut,
    on_groups,
    play_on_two_ranks,
    policy,
    scenario,
    sequences,
    weights,
)
from safetensors.torch import load_file
from small_settings import small_learner, small_optimizer, small_policy
from transformers import AutoConfig

from actors.learner.actor import Learner
from actors.learner.settings import ModelError
from actors.messages import TrainingSequence
from actors.weights.checksums import tensor_checksum

PLAIN = small_optimizer(name="adamw", learning_rate=1e-3, gradient_clip=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def model(folder: Path) -> str:
    return build_model(folder / "model")


@pytest.fixture(scope="module")
def one(learner: Learner, model: str, folder: Path) -> dict[str, Any]:
    return scenario(learner, 1, model, folder)


@pytest.fixture(scope="module")
def two(model: str, folder: Path) -> dict[str, Any]:
    return play_on_two_ranks(model, folder)


def plain_model(model: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def plain_logprobs(lm: Any, item: TrainingSequence, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of one completion, by the whole softmax of an unpadded sequence."""
    tokens = torch.tensor(np.concatenate([item.prompt_ids, item.completion_ids]), dtype=torch.int64)
    full = torch.log_softmax(lm(tokens[None]).logits[0] / temperature, dim=-1)
    return full[:-1].gather(1, tokens[1:, None])[len(item.prompt_ids) - 1 :, 0]


@pytest.mark.slow
def test_supervised_step_equals_plain_pytorch(learner: Learner, model: str) -> None:
    items = sequences(5, 3)
    learner.load(model, None, PLAIN)
    metrics = learner.supervised_step(*cut(items, 0, 1))

    lm = plain_model(model)
    tokens = sum(len(item.completion_ids) for item in items)
    loss = -torch.cat([plain_logprobs(lm, item) for item in items]).sum() / tokens
    loss.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in lm.parameters()]).norm()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    optimizer.step()

    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert metrics["tokens"] == tokens
    ours = weights(learner)
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_policy_step_equals_plain_pytorch(learner: Learner, model: str, folder: Path) -> None:
    items, reference_path = sequences(5, 4, old=True), build_model(folder / "reference", seed=1)
    learner.load(model, reference_path, PLAIN)
    metrics = policy(learner, items, POLICY)

    lm, reference = plain_model(model), plain_model(reference_path)
    losses, divergences, clips = [], [], []
    for item in items:
        logprobs = plain_logprobs(lm, item, POLICY.temperature)
        with torch.no_grad():
            fixed = plain_logprobs(reference, item, POLICY.temperature)
        ratio = (logprobs - torch.tensor(item.old_logprobs)).exp()
        surrogate = torch.minimum(ratio * item.advantage, ratio.clamp(0.8, 1.2) * item.advantage)
        clips.append(surrogate < ratio * item.advantage)
        divergences.append((fixed - logprobs).exp() - 1 - (fixed - logprobs))
        losses.append(-surrogate + POLICY.kl_coefficient * divergences[-1])
    loss = torch.cat(losses).mean()
    loss.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in lm.parameters()]).norm()

    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["kl"] == pytest.approx(torch.cat(divergences).mean().item(), rel=1e-5)
    assert metrics["clip_fraction"] == pytest.approx(torch.cat(clips).float().mean().item())
    assert 0 < metrics["clip_fraction"] < 1
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.slow
def test_policy_step_on_its_own_traces_by_hand(learner: Learner, model: str) -> None:
    """With the policy as its own reference and old policy, ratio is 1, KL 0, and the loss minus the mean advantage."""
    items = sequences(4, 5)
    learner.load(model, model, PLAIN)
    metrics = policy(learner, items, small_policy(kl_coefficient=0.5))
    tokens = sum(len(item.completion_ids) for item in items)
    expected = -sum(item.advantage * len(item.completion_ids) for item in items) / tokens
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-7)
    assert (metrics["ratio_mean"], metrics["ratio_max"], metrics["clip_fraction"]) == (1.0, 1.0, 0.0)


@pytest.mark.slow
def test_logprobs_are_those_of_every_completion(learner: Learner, model: str) -> None:
    items = sequences(6, 6)
    learner.load(model, None, PLAIN)
    micro, _ = cut(items, 0, 1)
    lm = plain_model(model)
    for batch, answers in zip(micro, learner.logprobs(micro, 0.8), strict=True):
        for item, ours in zip(batch, answers, strict=True):
            np.testing.assert_allclose(ours, plain_logprobs(lm, item, 0.8).detach().numpy(), atol=2e-6)


def same(one: dict[str, Any], two: dict[str, Any], *, weights: float, metrics: float) -> None:
    """Weights equal to an absolute tolerance, metrics of every step to a relative one.

    Adam divides a gradient by its own size, so that an element whose gradient is nearly nothing goes where the last
    bits of it go, which differ from processor to processor: one in a thousand may differ by ten times as much.
    """
    for name, tensor in one["weights"].items():
        apart = (two["weights"][name] - tensor).abs()
        assert (apart > weights).float().mean() <= 1e-3, name
        assert apart.max() <= 10 * weights, name
    for mine, theirs in zip(one["metrics"], two["metrics"], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert theirs[name] == pytest.approx(value, rel=metrics, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_rank_equals_two(one: dict[str, Any], two: dict[str, Any], optimizer: str) -> None:
    # Muon orthogonalises in bfloat16, where a last bit of difference in the momentum shows.
    exact = optimizer == "adamw"
    same(one[optimizer], two[optimizer], weights=1e-5 if exact else 1e-3, metrics=1e-4 if exact else 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_rank_equals_two_that_reduce_once_a_step(one: dict[str, Any], two: dict[str, Any], optimizer: str) -> None:
    exact = optimizer == "adamw"
    mine, theirs = one["reduced_once"][optimizer], two["reduced_once"][optimizer]
    same(mine, theirs, weights=1e-5 if exact else 1e-3, metrics=1e-4 if exact else 1e-2)


def test_steps_of_two_ranks_have_empty_micro_batches() -> None:
    """Guards the comparisons above: in some of their steps one rank of two ends on nothing, and in some neither."""
    lacking = []
    for seed in range(8):
        first, second = (cut(sequences(9, seed), rank, 2)[0] for rank in range(2))
        assert len(first) == len(second) > 1
        lacking.append(not first[-1] or not second[-1])
    assert set(lacking) == {True, False}


@pytest.mark.slow
def test_gradient_that_is_not_finite_on_one_rank_skips_the_step_on_both(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    for seen in (one["poisoned"], two["poisoned"]):
        assert not np.isfinite(seen["skipped"]["grad_norm"])
        assert seen["unchanged"]
        assert seen["skipped"]["skipped_steps"] == seen["sound"]["skipped_steps"] == 1.0
        assert np.isfinite(seen["sound"]["grad_norm"])
    assert two["poisoned"]["sound"]["loss"] == pytest.approx(one["poisoned"]["sound"]["loss"], rel=1e-5)
    for name, tensor in one["poisoned"]["weights"].items():
        torch.testing.assert_close(two["poisoned"]["weights"][name], tensor, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_steps_moved_the_weights(one: dict[str, Any], model: str, optimizer: str) -> None:
    """Guards the comparisons above: nothing equals nothing."""
    start = plain_model(model).state_dict()
    moved = {name: (tensor - start[name]).abs().max().item() for name, tensor in one[optimizer]["weights"].items()}
    assert min(moved.values()) > 1e-4


@pytest.mark.slow
def test_two_ranks_export_and_publish_the_same_weights(two: dict[str, Any], folder: Path) -> None:
    final, update = two["muon"]["weights"], two["update"]
    exported = plain_model(str(folder / "exported-2")).state_dict()
    published = load_file(update.path)
    for name, tensor in final.items():
        assert torch.equal(exported[name], tensor)
        assert torch.equal(published[name], tensor)
    assert {entry.name: entry.checksum for entry in update.tensors} == {
        name: tensor_checksum(tensor) for name, tensor in final.items()
    }


def test_exported_folder_is_a_whole_judge(one: dict[str, Any], model: str, folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    exported = folder / "exported-1"
    before, after = AutoConfig.from_pretrained(model).to_dict(), AutoConfig.from_pretrained(exported).to_dict()
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= {"_name_or_path"}
    assert AutoTokenizer.from_pretrained(exported).get_vocab() == AutoTokenizer.from_pretrained(model).get_vocab()
    lm = plain_model(str(exported))
    assert lm.lm_head.weight is lm.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(exported / "model.safetensors")


@pytest.mark.slow
def test_untied_output_head_is_trained_and_exported(learner: Learner, folder: Path) -> None:
    source = build_model(folder / "untied", tied=False)
    learner.load(source, None, PLAIN)
    learner.supervised_step(*cut(sequences(4, 8), 0, 1))
    learner.export(str(folder / "untied-exported"))
    before, after = plain_model(source), plain_model(str(folder / "untied-exported"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert not torch.equal(after.lm_head.weight, after.model.embed_tokens.weight)


@pytest.mark.slow
def test_export_keeps_the_stored_data_type(learner: Learner, folder: Path) -> None:
    source = build_model(folder / "half", dtype="bfloat16")
    plain_model(source).to(torch.bfloat16).save_pretrained(source)
    learner.load(source, None, PLAIN)
    learner.export(str(folder / "half-exported"))
    written = load_file(folder / "half-exported" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert '"dtype": "bfloat16"' in (folder / "half-exported" / "config.json").read_text()


@pytest.mark.parametrize("played", ["one", pytest.param("two", marks=pytest.mark.slow)])
def test_checkpoint_continues_exactly(request: pytest.FixtureRequest, played: str) -> None:
    seen = request.getfixturevalue(played)
    assert seen["state"] == {"step": 4}
    assert seen["restored"]
    assert seen["replayed"]


@pytest.mark.slow
def test_the_cut_into_micro_batches_changes_nothing(learner: Learner, model: str) -> None:
    results = []
    for budget in (20, BUDGET, 4096):
        learner.load(model, model, PLAIN)
        items = sequences(9, 7, old=True)
        results.append(
            (policy(learner, items, POLICY, budget=budget), weights(learner), len(cut(items, 0, 1, budget)[0]))
        )
    assert results[0][2] > results[1][2] > results[2][2] == 1
    for metrics, state, _ in results[:2]:
        assert metrics == pytest.approx(results[2][0], rel=1e-5, abs=1e-7)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, results[2][1][name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_packed_rows_equal_padded_ones(learner: Learner, one: dict[str, Any], model: str) -> None:
    padded = on_groups(learner, 1, model, packed=False)
    same(padded, one["packed"], weights=1e-5, metrics=1e-5)
    for budget in (40, 4096):
        same(padded, on_groups(learner, 1, model, packed=True, budget=budget), weights=1e-5, metrics=1e-5)
    recomputed = on_groups(learner, 1, model, packed=True, activation_checkpointing=True)
    same(padded, recomputed, weights=1e-5, metrics=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_learns_what_padded_rows_do(
    learner: Learner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch computes it uncompiled: it has gradients on CPU then, though torch refuses them there."""
    from torch.nn.attention import flex_attention as torch_flex

    from actors.learner import attention

    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(attention, "_flex", lambda: torch_flex.flex_attention)
    wide = build_model(folder / "wide", hidden_size=48)
    padded = on_groups(learner, 1, wide, packed=False)
    for recompute in (False, True):
        flex = on_groups(learner, 1, wide, packed=True, attention="flex", activation_checkpointing=recompute)
        same(padded, flex, weights=1e-5, metrics=1e-5)


@pytest.mark.slow
def test_models_that_packed_rows_would_compute_wrong_are_refused(learner: Learner, model: str, folder: Path) -> None:
    sliding = build_model(
        folder / "sliding",
        use_sliding_window=True,
        sliding_window=4,
        layer_types=["full_attention", "sliding_attention"],
    )
    dropping = build_model(folder / "dropping", hidden_size=48, attention_dropout=0.1)
    for attention, path, reason in (
        ("sdpa", sliding, "has layers of sliding_attention, .* set learner.packing=false"),
        ("flex", sliding, "has layers of sliding_attention, .* set learner.packing=false"),
        ("flex", model, "heads of 8, flex attention at least 16: set learner.attention=sdpa"),
        ("flex", dropping, "dropout in attention, .* set learner.attention=sdpa"),
    ):
        with pytest.raises(ModelError, match=reason):
            on_groups(learner, 1, path, packed=True, attention=attention)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5"])
def test_a_model_of_more_than_text_is_refused_before_its_weights_are_read(
    learner: Learner, kind: str, tmp_path: Path
) -> None:
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"reads more than text, .*: save its language model as a checkpoint of its own"
    ):
        learner.load(str(tmp_path), None, small_optimizer())


@pytest.mark.slow
def test_one_rank_equals_two_with_packed_rows(one: dict[str, Any], two: dict[str, Any]) -> None:
    same(one["packed"], two["packed"], weights=1e-5, metrics=1e-4)


@pytest.mark.slow
def test_one_rank_equals_two_with_adapters(one: dict[str, Any], two: dict[str, Any]) -> None:
    same(one["adapted"], two["adapted"], weights=1e-5, metrics=1e-4)


@pytest.mark.slow
def test_ranks_that_leave_their_devices_between_steps_take_the_same_steps(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    for seen in (one, two):
        same(seen["packed"], seen["away"], weights=0.0, metrics=0.0)


@pytest.mark.parametrize("kind", ["in_portions", "in_portions_reduced_once"])
def test_gradients_of_traces_as_they_come_are_those_of_the_whole(one: dict[str, Any], kind: str) -> None:
    same(one["packed"], one[kind], weights=1e-5, metrics=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in_portions", "in_portions_reduced_once"])
def test_one_rank_equals_two_with_gradients_as_they_come(one: dict[str, Any], two: dict[str, Any], kind: str) -> None:
    same(one["packed"], two[kind], weights=1e-5, metrics=1e-4)


@pytest.mark.slow
def test_empty_micro_batches_contribute_nothing(learner: Learner, model: str) -> None:
    micro, tokens = cut(sequences(4, 9, old=True), 0, 1)
    outcomes = []
    for batches in (micro, [*micro, [], []]):
        learner.load(model, model, PLAIN)
        outcomes.append((learner.policy_step(batches, POLICY, tokens, 4), weights(learner)))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(tensor, outcomes[1][1][name]) for name, tensor in outcomes[0][1].items())


@pytest.mark.slow
def test_activation_checkpointing_changes_nothing(learner: Learner, model: str) -> None:
    results = []
    for recompute in (False, True):
        other = copy.copy(learner)
        other._settings = small_learner(activation_checkpointing=recompute, reshard_after_forward=recompute)
        other.load(model, None, PLAIN)
        results.append((other.supervised_step(*cut(sequences(6, 1), 0, 1)), weights(other)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, results[1][1][name], atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["reference", "all"])
def test_offloading_changes_nothing(learner: Learner, model: str, offload: str) -> None:
    kept = on_groups(learner, 1, model, packed=False)
    same(kept, on_groups(learner, 1, model, packed=False, offload=offload), weights=1e-6, metrics=1e-6)


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_float32_weights(learner: Learner, model: str) -> None:
    other = copy.copy(learner)
    other._settings = small_learner(dtype="bfloat16")
    other.load(model, model, small_optimizer(name="adamw", learning_rate=1e-5, gradient_clip=0.0))
    metrics = policy(other, sequences(4, 2), small_policy())
    # The frozen reference is kept in bfloat16, the policy gathered in it: the same weights, the same log-probabilities.
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    start = plain_model(model).state_dict()
    moved = max((tensor - start[name]).abs().max().item() for name, tensor in weights(other).items())
    # A step of 1e-5 is far below bfloat16's resolution around 0.3; float32 weights take it.
    assert 5e-6 < moved < 2e-5


@pytest.mark.slow
def test_gradient_that_is_not_finite_skips_the_step_and_is_counted(learner: Learner, model: str) -> None:
    learner.load(model, None, PLAIN)
    before = weights(learner)
    items = [TrainingSequence(np.array([3]), np.array([4]), advantage=float("nan"))]
    metrics = policy(learner, items, small_policy(kl_coefficient=0.0))
    assert not np.isfinite(metrics["grad_norm"])
    assert metrics["skipped_steps"] == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(learner).items())
    assert learner.supervised_step(*cut(sequences(3, 1), 0, 1))["skipped_steps"] == 1.0


@pytest.mark.slow
def test_gradient_is_clipped_to_the_global_norm(learner: Learner, model: str) -> None:
    learner.load(model, None, OPTIMIZERS["adamw"])
    trainer = learner._trainer
    from actors.learner.optimizers import clip_gradients

    for parameter in trainer.judge.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in trainer.judge.parameters())
    assert clip_gradients(trainer.judge.parameters(), 0.5, trainer.group) == pytest.approx(count**0.5, rel=1e-6)
    assert clip_gradients(trainer.judge.parameters(), 0.0, trainer.group) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.slow
def test_models_that_cannot_be_used_are_named(learner: Learner, model: str, folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at /no/such/model"):
        learner.load("/no/such/model", None, PLAIN)
    (folder / "hollow").mkdir()
    with pytest.raises(ModelError, match=r"cannot load .* from .*hollow"):
        learner.load(str(folder / "hollow"), None, PLAIN)
    lacking = build_model(folder / "lacking")
    from safetensors.torch import save_file

    state = load_file(f"{lacking}/model.safetensors")
    del state["model.norm.weight"]
    save_file(state, f"{lacking}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights \(model\.norm\.weight"):
        learner.load(lacking, None, PLAIN)
    (Path(lacking) / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"cannot load .* from .*lacking"):
        learner.load(lacking, None, PLAIN)
