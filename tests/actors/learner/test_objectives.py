"""Losses and advantages against numbers worked by hand, gradients against autograd on the plain formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from actors.learner.advantages import group_advantages
from actors.learner.objectives import clipped_policy_loss, kl_divergence, token_logprobs


def test_advantages_by_hand() -> None:
    # Mean -0.5; squared deviations 2.25 + 3 x 0.25 = 3; sample variance 3 / 3 = 1.
    assert group_advantages(np.array([1.0, -1.0, -1.0, -1.0])) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    # Without normalising: reward minus mean.
    assert group_advantages(np.array([1.0, -1.0, -1.0, -1.0]), normalise=False).tolist() == [1.5, -0.5, -0.5, -0.5]
    # Seven traces, five right: mean 3/7, sample variance (5 x (4/7)^2 + 2 x (10/7)^2) / 6 = 280 / 294.
    spread = math.sqrt(280 / 294)
    expected = [4 / 7 / spread] * 5 + [-10 / 7 / spread] * 2
    assert group_advantages(np.array([1.0] * 5 + [-1.0] * 2)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rewards", [[0.1, 0.1, 0.1], [1.0] * 8, [0.7]])
def test_equal_rewards_have_no_advantage_at_all(rewards: list[float]) -> None:
    assert group_advantages(np.array(rewards)).tolist() == [0.0] * len(rewards)


def test_clipped_loss_by_hand() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 3.0])
    losses, seen, clipped = clipped_policy_loss(ratios.log(), torch.zeros(5), advantages, 0.2, 0.3)
    # A > 0: min(rA, clip(r)A): min(3, 1.3 x 2), min(1, 0.8 x 2). A < 0: min(-3, -2.6), min(-1, -1.6).
    assert losses.tolist() == pytest.approx([-2.6, -1.0, 3.0, 1.6, -3.0], abs=1e-6)
    assert clipped.tolist() == [True, False, False, True, False]
    assert seen.tolist() == pytest.approx(ratios.tolist())


def test_clipped_loss_gradient_is_the_policy_gradient_inside_and_nothing_outside() -> None:
    logprobs = torch.tensor([-1.0, -1.0]).requires_grad_()
    old = torch.tensor([-1.0, -1.0 - math.log(1.5)])
    losses, _, _ = clipped_policy_loss(logprobs, old, torch.tensor([0.7, 0.7]), 0.2, 0.2)
    losses.sum().backward()
    # d/dlogp of -A exp(logp - old) at ratio 1 is -A; past the clip there is none.
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.7, 0.0])


def test_extreme_log_ratios_stay_finite() -> None:
    losses, _, _ = clipped_policy_loss(torch.tensor([0.0]), torch.tensor([-1e4]), torch.tensor([-1.0]), 0.2, 0.2)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(kl_divergence(torch.tensor([-1e4]), torch.tensor([0.0]), "k3")).all()


def test_kl_estimators_by_hand() -> None:
    logprobs, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_divergence(logprobs, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_divergence(logprobs, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_divergence(logprobs, reference, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))
    with pytest.raises(ValueError, match="k4"):
        kl_divergence(logprobs, reference, "k4")


def test_kl_estimators_are_unbiased() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        expected = (policy * kl_divergence(policy.log(), reference.log(), estimator)).sum()
        assert expected.item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_chunked_logprobs_equal_plain_ones_and_so_do_their_gradients(chunk: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Logits of variance 1 before the temperature: of 10 and more, float32 itself no longer resolves 1e-6.
    hidden, weight = torch.randn(20, 8, generator=generator), torch.randn(50, 8, generator=generator) / math.sqrt(8)
    targets, upstream = torch.randint(0, 50, (20,), generator=generator), torch.randn(20, generator=generator)

    def leaves(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True).requires_grad_()

    # The plain formula in float64: what is left is the rounding of float32.
    plain_hidden, plain_weight = leaves(torch.float64)
    full = torch.log_softmax(plain_hidden @ plain_weight.t() / temperature, dim=-1)
    plain = full.gather(1, targets[:, None])[:, 0]
    (plain * upstream).sum().backward()
    our_hidden, our_weight = leaves(torch.float32)
    ours, entropy = token_logprobs(our_hidden, our_weight, targets, temperature=temperature, chunk=chunk)
    (ours * upstream).sum().backward()

    for mine, exact in (
        (ours, plain),
        (entropy, -(full.exp() * full).sum(-1)),
        (our_hidden.grad, plain_hidden.grad),
        (our_weight.grad, plain_weight.grad),
    ):
        assert mine is not None
        assert exact is not None
        torch.testing.assert_close(mine.double(), exact, atol=1e-6, rtol=1e-6)
    assert not entropy.requires_grad


def test_entropy_of_a_peaked_distribution_is_not_lost_in_its_logits() -> None:
    # Logits 120 and 110 of two tokens: H = log(1 + e^-10) + 10 / (1 + e^10), 0.0005.
    weight = torch.tensor([[120.0], [110.0]])
    _, entropy = token_logprobs(torch.ones(1, 1), weight, torch.tensor([0]))
    assert entropy.item() == pytest.approx(math.log1p(math.exp(-10)) + 10 / (1 + math.exp(10)), rel=1e-3)


def test_no_targets_give_no_logprobs_and_a_gradient_of_zeros() -> None:
    hidden, weight = torch.zeros(0, 4).requires_grad_(), torch.ones(5, 4).requires_grad_()
    logprobs, _ = token_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64))
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum().item() == 0
