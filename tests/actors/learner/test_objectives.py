"""Losses, KL and log-probabilities against numbers worked by hand and against the naive way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from actors.learner.advantages import group_advantages
from actors.learner.objectives import LOG_RATIO_LIMIT, clipped_policy_loss, kl_divergence, token_logprobs


def test_group_advantages_by_hand() -> None:
    # rewards 1, 1, -1, -1: mean 0, sample variance 4/3
    expected = 1 / (math.sqrt(4 / 3) + 1e-6)
    assert group_advantages(np.array([1, 1, -1, -1])) == pytest.approx([expected, expected, -expected, -expected])
    # rewards 1, -1, -1: mean -1/3, deviations 4/3, -2/3, -2/3, sample variance (16 + 4 + 4) / 9 / 2 = 4/3
    assert group_advantages(np.array([1.0, -1.0, -1.0])) == pytest.approx(
        [4 / 3 * expected, -2 / 3 * expected, -2 / 3 * expected]
    )
    assert group_advantages(np.array([1.0, -1.0, -1.0]), normalise=False) == pytest.approx([4 / 3, -2 / 3, -2 / 3])


def test_group_of_equal_rewards_has_no_advantage() -> None:
    assert group_advantages(np.array([-1.0] * 5)).tolist() == [0.0] * 5


def test_clipped_loss_by_hand() -> None:
    old = torch.log(torch.tensor([0.5, 0.5, 0.5, 0.5]))
    new = torch.log(torch.tensor([0.7, 0.7, 0.3, 0.3]))  # ratios 1.4, 1.4, 0.6, 0.6
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    losses, ratios, clipped = clipped_policy_loss(new, old, advantages, 0.2, 0.2)
    # min(rA, clip(r)A) for A > 0 caps 1.4 at 1.2; for A < 0 it keeps 1.4, and lifts 0.6 to 0.8.
    assert losses.tolist() == pytest.approx([-1.2, 1.4, -0.6, 0.8], abs=1e-6)
    assert ratios.tolist() == pytest.approx([1.4, 1.4, 0.6, 0.6], abs=1e-6)
    assert clipped.tolist() == [True, False, False, True]


def test_clip_bounds_are_separate() -> None:
    new, old = torch.log(torch.tensor([1.5])), torch.zeros(1)
    losses, _, _ = clipped_policy_loss(new, old, torch.ones(1), 0.2, 0.28)
    assert losses.item() == pytest.approx(-1.28)


def test_clipped_tokens_give_no_gradient_and_others_give_the_policy_gradient() -> None:
    logprobs = torch.log(torch.tensor([0.7, 0.5])).requires_grad_()
    losses, _, _ = clipped_policy_loss(logprobs, torch.log(torch.tensor([0.5, 0.5])), torch.ones(2), 0.2, 0.2)
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -1.0])


def test_extreme_ratios_stay_finite() -> None:
    logprobs = torch.tensor([0.0, -300.0]).requires_grad_()
    losses, ratios, _ = clipped_policy_loss(logprobs, torch.tensor([-300.0, 0.0]), -torch.ones(2), 0.2, 0.2)
    losses.sum().backward()
    assert ratios[0].item() == pytest.approx(math.exp(LOG_RATIO_LIMIT))
    assert torch.isfinite(losses).all()
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()


def test_kl_estimators_by_hand() -> None:
    policy, reference = torch.log(torch.tensor([0.5])), torch.log(torch.tensor([0.25]))
    log2 = math.log(2)
    assert kl_divergence(policy, reference, "k1").item() == pytest.approx(log2)
    assert kl_divergence(policy, reference, "k2").item() == pytest.approx(log2**2 / 2)
    assert kl_divergence(policy, reference, "k3").item() == pytest.approx(0.5 - 1 + log2)
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_divergence(policy, reference, "k4")


def test_k3_is_unbiased() -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    exact = (policy * (policy / reference).log()).sum().item()
    estimate = (policy * kl_divergence(policy.log(), reference.log(), "k3")).sum().item()
    assert estimate == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_equal_the_naive_way(chunk: int, temperature: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(10, 8, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(20, 8, requires_grad=True)
    targets = torch.randint(20, (10,))
    factors = torch.randn(10)

    logprobs, entropies = token_logprobs(hidden, weight, targets, temperature, chunk)
    (logprobs * factors).sum().backward()
    gradients = hidden.grad, weight.grad
    hidden.grad = weight.grad = None

    naive = ((hidden @ weight.t()) / temperature).log_softmax(-1)
    (naive.gather(1, targets[:, None])[:, 0] * factors).sum().backward()
    assert torch.allclose(logprobs, naive.gather(1, targets[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(entropies, -(naive.exp() * naive).sum(-1), atol=1e-5)
    assert gradients[0] is not None
    assert hidden.grad is not None
    assert torch.allclose(gradients[0], hidden.grad, atol=1e-6)
    assert gradients[1] is not None
    assert weight.grad is not None
    assert torch.allclose(gradients[1], weight.grad, atol=1e-5)


def test_token_logprobs_gradient_by_finite_differences() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(3, 4, requires_grad=True)
    weight, targets = torch.randn(5, 4), torch.tensor([0, 4, 2])
    token_logprobs(hidden, weight, targets, 1.0, 2)[0].sum().backward()
    step = torch.zeros_like(hidden)
    step[1, 2] = 1e-3
    with torch.no_grad():
        above = token_logprobs(hidden + step, weight, targets)[0].sum()
        below = token_logprobs(hidden - step, weight, targets)[0].sum()
    assert hidden.grad is not None
    assert hidden.grad[1, 2].item() == pytest.approx(((above - below) / 2e-3).item(), abs=1e-3)
