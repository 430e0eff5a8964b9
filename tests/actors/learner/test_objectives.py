"""Losses against numbers worked by hand, gradients against autograd on the plain formula."""

from __future__ import annotations

import math

import pytest
import torch

from actors.learner.corrections import importance_weights
from actors.learner.objectives import (
    cispo_loss,
    clipped_loss,
    gmpo_loss,
    kl_divergence,
    loss_divisor,
    policy_ratio,
    token_weights,
)


def test_clipped_loss_by_hand() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 3.0])
    policy = clipped_loss(ratios, advantages, 0.2, 0.3)
    # A > 0: min(rA, clip(r)A): min(3, 1.3 x 2), min(1, 0.8 x 2). A < 0: min(-3, -2.6), min(-1, -1.6).
    assert policy.losses.tolist() == pytest.approx([-2.6, -1.0, 3.0, 1.6, -3.0], abs=1e-6)
    assert policy.above.tolist() == [True, False, False, False, False]
    assert policy.below.tolist() == [False, False, False, True, False]
    assert policy.ratios.tolist() == pytest.approx(ratios.tolist())


def test_dual_clip_by_hand() -> None:
    ratios, advantages = torch.tensor([5.0, 2.0, 5.0, 0.5]), torch.tensor([-2.0, -2.0, 2.0, -2.0])
    policy = clipped_loss(ratios, advantages, 0.2, 0.2, dual_clip=3.0)
    # A < 0: the loss -rA = 10 is held at -3A = 6; 4 is below it. A > 0 is clip's alone: -1.2 x 2.
    assert policy.losses.tolist() == pytest.approx([6.0, 4.0, -2.4, 1.6], abs=1e-6)
    assert policy.dual.tolist() == [True, False, False, False]


def test_clipped_loss_gradient_is_the_policy_gradient_inside_and_nothing_outside() -> None:
    logprobs = torch.tensor([-1.0, -1.0]).requires_grad_()
    old = torch.tensor([-1.0, -1.0 - math.log(1.5)])
    ratios = policy_ratio(logprobs, old, [1, 1], "token")
    clipped_loss(ratios, torch.tensor([0.7, 0.7]), 0.2, 0.2).losses.sum().backward()
    # d/dlogp of -A exp(logp - old) at ratio 1 is -A; past the clip there is none.
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.7, 0.0])


def test_cispo_keeps_the_gradient_of_every_token_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0]).requires_grad_()
    old = torch.tensor([-1.0, -2.0 - math.log(8), -3.0 + math.log(2)])
    ratios = policy_ratio(logprobs, old, [3], "token")
    policy = cispo_loss(ratios, logprobs, torch.tensor([1.0, 1.0, -2.0]), 1.0, 4.0)
    # Ratios 1, 8 held at 5, 1/2: -1 x 1 x -1, -5 x 1 x -2, -1/2 x -2 x -3.
    assert policy.losses.tolist() == pytest.approx([1.0, 10.0, -3.0], rel=1e-5)
    policy.losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -5.0, 1.0], rel=1e-5)
    assert policy.above.tolist() == [False, True, False]


def test_gmpo_by_hand() -> None:
    # Two traces: ratios 2, 8 held at 2, 4 (mean sqrt(8)), A = 3; ratios 1/2, 1/16 held at 1/2, 1/4 (sqrt(1/8)), A = -2.
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -4.0]).requires_grad_()
    ratios = policy_ratio(logprobs, logprobs.detach() - torch.tensor([2, 8, 1 / 2, 1 / 16]).log(), [2, 2], "token")
    policy = gmpo_loss(ratios, torch.tensor([3.0, 3.0, -2.0, -2.0]), [2, 2], 0.75, 3.0)
    first, second = -3 * math.sqrt(8), 2 * math.sqrt(1 / 8)
    assert policy.losses.tolist() == pytest.approx([first, first, second, second], rel=1e-5)
    assert (policy.above.tolist(), policy.below.tolist()) == ([False, True, False, False], [False, False, False, True])
    # Of a trace's loss, which is the mean of its tokens' here: half of it a token, nothing where a bound acts.
    (policy.losses * token_weights([2, 2], "sequence_mean", 1)).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([first / 2, 0, second / 2, 0], rel=1e-5)


def test_gmpo_bounds_only_what_would_gain_and_is_gspo_where_nothing_is_bounded() -> None:
    difference = torch.tensor([0.9, -0.2, -1.5])
    advantages = torch.tensor([-1.0, -1.0, 2.0])
    tokens = policy_ratio(difference, torch.zeros(3), [2, 1], "token")
    traces = policy_ratio(difference, torch.zeros(3), [2, 1], "sequence_mean")
    policy = gmpo_loss(tokens, advantages, [2, 1], 0.33, 0.49)
    assert policy.losses.tolist() == pytest.approx((-advantages * traces).tolist(), rel=1e-5)
    assert not (policy.above | policy.below).any()


def test_ratios_of_traces_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5]).requires_grad_()
    old = torch.tensor([-1.0 - math.log(2), -2.0 - math.log(8), -0.5 + math.log(3)])
    # Two tokens of ratios 2 and 8: product 16, geometric mean 4. One of 1/3.
    assert policy_ratio(logprobs, old, [2, 1], "token").tolist() == pytest.approx([2, 8, 1 / 3], rel=1e-5)
    assert policy_ratio(logprobs, old, [2, 1], "sequence").tolist() == pytest.approx([16, 16, 1 / 3], rel=1e-5)
    means = policy_ratio(logprobs, old, [2, 1], "sequence_mean")
    assert means.tolist() == pytest.approx([4, 4, 1 / 3], rel=1e-5)
    # GSPO, equation 10: the gradient of s A is s A times the mean of the tokens' gradients.
    (means * token_weights([2, 1], "sequence_mean", 1) / 2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([4 / 2 / 2, 4 / 2 / 2, 1 / 3 / 2], rel=1e-5)
    with pytest.raises(ValueError, match="'group' is not one of token, sequence"):
        policy_ratio(logprobs, old, [2, 1], "group")


def test_token_weights_by_hand() -> None:
    assert token_weights([2, 3], "token_mean", 8).tolist() == pytest.approx([1] * 5)
    assert token_weights([2, 3], "sequence_mean", 8).tolist() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)
    assert token_weights([2, 3], "fixed_length", 8).tolist() == pytest.approx([1 / 8] * 5)
    assert token_weights([], "sequence_mean", 8).tolist() == []
    with pytest.raises(ValueError, match="'mean' is not one of token_mean"):
        token_weights([1], "mean", 1)
    divisors = [loss_divisor(name, 20, 4) for name in ("token_mean", "sequence_mean", "fixed_length")]
    assert divisors == [20, 4, 4]


def test_extreme_log_ratios_stay_finite() -> None:
    far, near = torch.tensor([-1e4]), torch.tensor([0.0])
    for level in ("token", "sequence", "sequence_mean"):
        assert torch.isfinite(clipped_loss(policy_ratio(near, far, [1], level), torch.tensor([-1.0]), 0.2, 0.2).losses)
    assert torch.isfinite(kl_divergence(far, near, "k3")).all()
    weights = importance_weights(near, far, [1], kind="truncate", level="sequence", floor=0.5, limit=2.0).weights
    assert weights.tolist() == [2.0]


def test_corrections_by_hand() -> None:
    # Two traces: learner over engine 4, 1/2 and 1/4, 2; products 2 and 1/2.
    difference = torch.tensor([4.0, 0.5, 0.25, 2.0]).log()

    def weights(kind: str, level: str) -> list[float]:
        correction = importance_weights(
            difference, torch.zeros(4), [2, 2], kind=kind, level=level, floor=0.4, limit=1.5
        )
        return correction.weights.tolist()

    assert weights("none", "token") == [1.0] * 4
    assert weights("truncate", "token") == pytest.approx([1.5, 0.5, 0.25, 1.5])
    assert weights("mask", "token") == pytest.approx([0, 0.5, 0, 0])
    assert weights("truncate", "sequence") == pytest.approx([1.5, 1.5, 0.5, 0.5])
    assert weights("mask", "sequence") == pytest.approx([0, 0, 0.5, 0.5])
    with pytest.raises(ValueError, match="'clip' is not one of none, truncate, mask"):
        weights("clip", "token")
    with pytest.raises(ValueError, match="'group' is not one of token, sequence"):
        weights("mask", "group")


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


def test_of_the_estimators_as_losses_k1_restrains_nothing_and_k2_is_the_kl() -> None:
    logits, reference = torch.tensor([0.3, -0.2, 0.9]).requires_grad_(), torch.tensor([0.2, 0.3, 0.5])

    def gradient(loss: torch.Tensor) -> list[float]:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0].tolist()

    logprobs = torch.log_softmax(logits, 0)
    exact = gradient((logprobs.exp() * (logprobs - reference.log())).sum())
    expected = {
        estimator: gradient((logprobs.exp().detach() * kl_divergence(logprobs, reference.log(), estimator)).sum())
        for estimator in ("k1", "k2")
    }
    assert expected["k1"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert expected["k2"] == pytest.approx(exact, abs=1e-6)
