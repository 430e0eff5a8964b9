"""The whole policy step, bundle by bundle: against a plain loop over traces, and however the mini-batch is cut."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_ranks import build_model, cut, policy, sequences, weights
from small_settings import small_optimizer, small_policy

from actors.learner.actor import Learner
from actors.learner.settings import PolicySettings
from actors.messages import TrainingSequence
from pipelines.config.compose import load_config
from pipelines.job.settings import policy_settings

BUNDLES = ("rm_r1", "dr_grpo", "dapo", "gspo", "gmpo", "cispo", "rloo", "reinforce_pp")
# Wide enough that some tokens are clipped and some are not, and that every term has a part in the gradient.
WIDER = ("algorithm.entropy_coefficient=0.05", "algorithm.correction=truncate", "algorithm.correction_limit=1.5")
CASES = {
    **{name: (f"algorithm={name}",) for name in BUNDLES},
    **{f"{name} wider": (f"algorithm={name}", *WIDER) for name in BUNDLES},
    "dual clip, masked traces, k2": (
        "algorithm=dapo",
        "algorithm.dual_clip=2",
        "algorithm.correction=mask",
        "algorithm.correction_level=sequence",
        "algorithm.correction_floor=0.001",
        "algorithm.correction_limit=1000",
        "algorithm.kl_coefficient=0.1",
        "algorithm.kl_estimator=k2",
    ),
}
PLAIN = small_optimizer(name="adamw", learning_rate=1e-3, gradient_clip=0.0)
ITEMS = 9


@functools.cache
def objective(case: str) -> PolicySettings:
    config = load_config([*CASES[case], "model.max_response_tokens=40"])
    return policy_settings(config, config.algorithm)


@functools.cache
def items() -> list[TrainingSequence]:
    """Traces with advantages of each token, and policies that differ: engine, old, current, reference."""
    rng = np.random.default_rng(5)
    return [
        dataclasses.replace(
            item,
            advantage=rng.normal(size=len(item.completion_ids)).astype(np.float32),
            rollout_logprobs=rng.normal(-4.5, 0.5, len(item.completion_ids)).astype(np.float32),
        )
        for item in sequences(ITEMS, 7, old=True)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Policy and reference."""
    folder = tmp_path_factory.mktemp("bundles")
    return build_model(folder / "model"), build_model(folder / "reference", seed=1)


@functools.cache
def _plain(path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)


def _distributions(lm: Any, item: TrainingSequence, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor(np.concatenate([item.prompt_ids, item.completion_ids]), dtype=torch.int64)
    full = torch.log_softmax(lm(tokens[None]).logits[0] / temperature, dim=-1)[len(item.prompt_ids) - 1 : -1]
    return full.gather(1, tokens[len(item.prompt_ids) :, None])[:, 0], -(full.exp() * full).sum(-1)


def _plain_loss(models: tuple[str, str], want: PolicySettings) -> tuple[float, float]:
    """Loss and gradient norm in float64, trace by trace, each formula written out once more."""
    lm, reference = copy.deepcopy(_plain(models[0])), _plain(models[1])
    tokens, total = sum(len(item.completion_ids) for item in items()), torch.zeros((), dtype=torch.float64)
    for item in items():
        logprobs, entropies = _distributions(lm, item, want.temperature)
        old, sampled = (
            torch.tensor(np.asarray(x), dtype=torch.float64) for x in (item.old_logprobs, item.rollout_logprobs)
        )
        advantage, length = torch.tensor(np.asarray(item.advantage), dtype=torch.float64), len(logprobs)
        ratio = (logprobs - old).exp()
        if want.ratio == "sequence":
            ratio = ratio.prod().expand(length)
        if want.ratio == "sequence_mean":
            ratio = (logprobs - old).mean().exp().expand(length)
        bounded = ratio.clamp(1 - want.clip_low, 1 + want.clip_high)
        gain = torch.minimum(ratio * advantage, bounded * advantage)
        if want.dual_clip:
            gain = torch.where(advantage < 0, torch.maximum(gain, want.dual_clip * advantage), gain)
        if want.loss == "cispo":
            gain = bounded.detach() * advantage * logprobs
        if want.loss == "gmpo":
            held = torch.where(advantage > 0, torch.minimum(ratio, bounded), torch.maximum(ratio, bounded))
            gain = advantage * held.log().mean().exp()
        weight = (old - sampled).exp()
        if want.correction_level == "sequence":
            weight = weight.prod().expand(length)
        if want.correction == "truncate":
            gain = gain * weight.clamp(max=want.correction_limit)
        if want.correction == "mask":
            gain = gain * weight * ((weight >= want.correction_floor) & (weight <= want.correction_limit))
        with torch.no_grad():
            fixed, _ = _distributions(reference, item, want.temperature)
        difference = fixed - logprobs
        kl = difference.square() / 2 if want.kl_estimator == "k2" else difference.exp() - 1 - difference
        losses = -gain + want.kl_coefficient * kl - want.entropy_coefficient * entropies
        divisor = {"token_mean": tokens, "sequence_mean": ITEMS * length, "fixed_length": ITEMS * want.fixed_length}
        total = total + losses.sum() / divisor[want.aggregation]
    total.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in lm.parameters()]).norm()
    return total.item(), norm.item()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_a_plain_loop_over_traces(learner: Learner, models: tuple[str, str], case: str) -> None:
    learner.load(*models, PLAIN)
    metrics = policy(learner, items(), objective(case))
    loss, norm = _plain_loss(models, objective(case))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)


def _gradient(learner: Learner, micro: Any, want: PolicySettings) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics and the whole gradient of a policy step that moves nothing."""
    from actors.learner import steps

    trainer, seen = learner._trainer, []

    def keep(kept: Any) -> dict[str, float]:
        gradients = [parameter.grad.full_tensor().flatten() for parameter in kept.judge.parameters()]
        seen.append(torch.cat(gradients).clone())
        for parameter in kept.judge.parameters():
            parameter.grad = None
        return {}

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(steps, "optimizer_step", keep)
        tokens = sum(len(item.completion_ids) for item in items())
        metrics = steps.policy_step(trainer, micro, want, tokens, ITEMS)
    return metrics, seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.sampled_from([20, 33, 47, 64, 90, 128]), order=st.permutations(range(ITEMS)), empty=st.booleans())
def test_loss_and_gradient_do_not_depend_on_the_cut(
    learner: Learner, models: tuple[str, str], case: str, budget: int, order: list[int], empty: bool
) -> None:
    if learner._trainer is None or learner._trainer.reference is None:
        learner.load(*models, PLAIN)
    whole, expected = _gradient(learner, [items()], objective(case))
    micro, _ = cut([items()[index] for index in order], 0, 1, budget)
    metrics, gradient = _gradient(learner, [*micro, *[[]] * empty], objective(case))
    assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.slow
def test_effective_sample_sizes_by_hand(learner: Learner, models: tuple[str, str]) -> None:
    learner.load(*models, PLAIN)
    want = small_policy(kl_coefficient=0.0)
    exact = [
        dataclasses.replace(item, rollout_logprobs=logprobs, old_logprobs=None)
        for item, logprobs in zip(items(), learner.logprobs([items()], 1.0)[0], strict=True)
    ]
    metrics = policy(learner, exact, want)
    assert (metrics["ess"], metrics["ess_traces"]) == pytest.approx((1, 1), rel=1e-5)
    assert metrics["logprob_difference_max"] < 1e-5
    # The engine gave the tokens of one trace of nine a half of the learner's probability.
    learner.load(*models, PLAIN)
    half = len(exact[0].completion_ids)
    tokens = sum(len(item.completion_ids) for item in exact)
    exact[0] = dataclasses.replace(
        exact[0], rollout_logprobs=np.asarray(exact[0].rollout_logprobs) - np.log(2, dtype=np.float32)
    )
    metrics = policy(learner, exact, want)
    assert metrics["ess"] == pytest.approx((tokens + half) ** 2 / (tokens * (tokens + 3 * half)), rel=1e-4)
    large = 2.0**half
    assert metrics["ess_traces"] == pytest.approx((8 + large) ** 2 / (9 * (8 + large**2)), rel=1e-3)
    assert metrics["logprob_difference"] == pytest.approx(np.log(2) * half / tokens, rel=1e-3)


@pytest.mark.slow
def test_masked_tokens_teach_nothing_and_are_counted(learner: Learner, models: tuple[str, str]) -> None:
    learner.load(models[0], None, PLAIN)
    before = weights(learner)
    far = [dataclasses.replace(item, rollout_logprobs=np.asarray(item.old_logprobs) - 3) for item in items()]
    want = small_policy(kl_coefficient=0.0, correction="mask", correction_limit=2.0)
    metrics = policy(learner, far, want)
    assert (metrics["correction_limited"], metrics["correction_weight"], metrics["policy_loss"]) == (1, 0, 0)
    assert metrics["grad_norm"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(learner).items())
