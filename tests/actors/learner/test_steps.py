"""A learner's steps: losses worked out another way, and results that do not depend on how the work was cut."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import sequences, tiny_checkpoint, train

from actors.learner.optimizers import learning_rate_factor
from actors.learner.settings import OptimizerSettings, PolicySettings

ADAMW = OptimizerSettings(learning_rate=1e-2, weight_decay=0.1, gradient_clip=1.0, total_steps=8)
MUON = dataclasses.replace(ADAMW, name="muon", muon_learning_rate=0.02)
POLICY = PolicySettings(kl_coefficient=0.1)
BATCHES = [sequences(13, seed) for seed in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learner")
    tiny_checkpoint(path / "model")
    return path


def naive_logprobs(folder: Path) -> list[list[torch.Tensor]]:
    """Log-probabilities of every completion in the first batch, from the model's own logits, one row at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    rows = []
    for sequence in BATCHES[0]:
        ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0]
        start = len(sequence.prompt_ids) - 1
        scored = logits[start:-1].log_softmax(-1).gather(1, ids[start + 1 :, None])[:, 0]
        rows.append([scored.detach()])
    return rows


def test_supervised_loss_is_mean_cross_entropy_of_completion_tokens(folder: Path) -> None:
    metrics, _ = train(1, folder, batches=BATCHES[:1], optimizer=ADAMW)
    scored = torch.cat([row[0] for row in naive_logprobs(folder)])
    assert metrics[0]["loss"] == pytest.approx(-scored.mean().item(), rel=1e-5)
    assert metrics[0]["tokens"] == len(scored)


def test_policy_loss_is_clipped_surrogate_plus_kl_over_all_tokens(folder: Path) -> None:
    metrics, _ = train(1, folder, batches=BATCHES[:1], optimizer=ADAMW, policy=POLICY)
    total, count, difference = 0.0, 0, 0.0
    for sequence, [scored] in zip(BATCHES[0], naive_logprobs(folder), strict=True):
        assert sequence.old_logprobs is not None
        assert sequence.rollout_logprobs is not None
        for new, old, engine in zip(scored.tolist(), sequence.old_logprobs, sequence.rollout_logprobs, strict=True):
            ratio = math.exp(new - old)
            clipped = min(max(ratio, 0.8), 1.2)
            total -= min(ratio * sequence.advantage, clipped * sequence.advantage)
            count += 1
            difference += abs(new - engine)
    # The reference is the starting model, so its KL to itself is nought.
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics[0]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert metrics[0]["logprob_difference"] == pytest.approx(difference / count, rel=1e-4)


def relative_difference(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    """Largest |a - b| / |a| over the parameters, in the 2-norm.

    Key biases are left out: softmax does not see them, so their gradient is rounding noise, which Adam scales up.
    """
    assert one.keys() == two.keys()
    return max(
        float(np.linalg.norm(one[name] - two[name]) / np.linalg.norm(one[name]))
        for name in one
        if not name.endswith("k_proj.bias")
    )


@pytest.mark.parametrize("policy", [None, POLICY], ids=["supervised", "policy"])
def test_result_does_not_depend_on_the_cut(folder: Path, policy: PolicySettings | None) -> None:
    """One step: micro-batch budget, activation checkpointing and ranks change nothing beyond rounding."""
    whole = train(1, folder, batches=BATCHES[:1], optimizer=ADAMW, policy=policy, token_budget=1000)
    cut = train(1, folder, batches=BATCHES[:1], optimizer=ADAMW, policy=policy, token_budget=24, checkpointing=True)
    spread = train(2, folder, batches=BATCHES[:1], optimizer=ADAMW, policy=policy, token_budget=32)
    for metrics, _ in (cut, spread):
        assert metrics[0]["loss"] == pytest.approx(whole[0][0]["loss"], rel=1e-5)
        assert metrics[0]["grad_norm"] == pytest.approx(whole[0][0]["grad_norm"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [(ADAMW, 1e-5), (MUON, 5e-3)], ids=["adamw", "muon"])
def test_two_ranks_train_like_one(folder: Path, optimizer: OptimizerSettings, tolerance: float) -> None:
    """Eight steps; Muon's Newton-Schulz runs in bfloat16, so it agrees only as closely as that allows."""
    one_metrics, one = train(1, folder, batches=BATCHES, optimizer=optimizer)
    two_metrics, two = train(2, folder, batches=BATCHES, optimizer=optimizer)
    three_metrics, three = train(3, folder, batches=BATCHES, optimizer=optimizer)
    for other in (two, three):
        assert relative_difference(one, other) < tolerance
    for other_metrics in (two_metrics, three_metrics):
        assert [row["loss"] for row in other_metrics] == pytest.approx(
            [row["loss"] for row in one_metrics], rel=tolerance
        )


def test_one_rank_muon_is_torch_muon(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = dataclasses.replace(MUON, gradient_clip=0.0)
    _, state = train(1, folder, batches=BATCHES[:2], optimizer=settings, token_budget=1000)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    named = dict(model.named_parameters())
    hidden = [value for name, value in named.items() if value.dim() == 2 and "embed" not in name]
    chosen = {id(value) for value in hidden}
    rest = [value for value in named.values() if id(value) not in chosen]
    optimizers = [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(
            [
                {"params": [value for value in rest if value.dim() >= 2], "weight_decay": 0.1},
                {"params": [value for value in rest if value.dim() < 2], "weight_decay": 0.0},
            ],
            lr=1e-2,
            betas=(0.9, 0.95),
        ),
    ]
    for batch in BATCHES[:2]:
        losses, count = torch.zeros(()), 0
        for sequence in batch:
            ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64))
            start = len(sequence.prompt_ids) - 1
            logits = model(input_ids=ids[None]).logits[0, start:-1]
            losses = losses - logits.log_softmax(-1).gather(1, ids[start + 1 :, None]).sum()
            count += len(sequence.completion_ids)
        (losses / count).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    expected = {name: value.detach().numpy() for name, value in named.items()}
    assert relative_difference(expected, state) < 5e-3


def test_gradient_that_is_not_finite_skips_the_step_and_counts_it(folder: Path) -> None:
    broken = [dataclasses.replace(BATCHES[0][0], advantage=float("nan")), *BATCHES[0][1:]]
    metrics, state = train(1, folder, batches=[broken], optimizer=ADAMW, policy=POLICY)
    _, untouched = train(1, folder, batches=[], optimizer=ADAMW, policy=POLICY)
    assert metrics[0]["skipped_steps"] == 1
    assert math.isnan(metrics[0]["grad_norm"])
    assert all(np.array_equal(untouched[name], value) for name, value in state.items())


def test_export_loads_with_transformers_and_keeps_weights_and_ties(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = folder / "exported"
    _, state = train(2, folder, batches=BATCHES[:1], optimizer=ADAMW, export=str(target))
    model = AutoModelForCausalLM.from_pretrained(target)
    loaded = dict(model.named_parameters())
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert np.array_equal(loaded[name].detach().numpy(), value)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(target).eos_token == "t1"
    assert not list(folder.glob("exported.tmp-*"))


def test_schedule_by_hand() -> None:
    settings = OptimizerSettings(total_steps=11, warmup_steps=2, schedule="cosine", final_fraction=0.1)
    factors = [learning_rate_factor(settings, step) for step in range(11)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert factors[10] == pytest.approx(0.1)
    linear = dataclasses.replace(settings, schedule="linear")
    assert learning_rate_factor(linear, 6) == pytest.approx(0.55)
    assert learning_rate_factor(dataclasses.replace(settings, schedule="constant"), 9) == 1.0
    with pytest.raises(ValueError, match="constant, cosine, linear"):
        learning_rate_factor(dataclasses.replace(settings, schedule="step"), 9)


def test_orthogonalisation_equals_torchs_own_matrix_by_matrix() -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    from actors.learner.optimizers import orthogonalise

    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in ((8, 8), (16, 8), (8, 16), (8, 8), (5, 7))]
    coefficients = (3.4445, -4.775, 2.0315)
    together = orthogonalise(matrices, coefficients, 5, 1e-7)
    for matrix, result in zip(matrices, together, strict=True):
        alone = _zeropower_via_newtonschulz(matrix, coefficients, 5, 1e-7)
        assert torch.allclose(result.float(), alone.float(), atol=1e-2)
        assert result.shape == matrix.shape
