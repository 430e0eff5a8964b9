"""The mathematics of learning, as pure functions: log-probabilities, policy loss, KL.

Per-token functions return one value a token; callers sum and divide by a global count, so that no result depends on
how a batch was cut into micro-batches or spread over ranks.
"""

from __future__ import annotations

from typing import Any

import torch

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to this before ``exp``: beyond it float32 has long overflowed what a loss can use."""


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h Wᵀ / t)[target] and its entropy, chunk by chunk, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies, normalisers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ weight.t()).float() / temperature
            normalisers[part] = torch.logsumexp(logits, dim=-1)
            logits -= normalisers[part, None]
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0]
            # Not normaliser - sum p x logit: of a peaked distribution, that is a small difference of large numbers.
            entropies[part] = -(torch.exp(logits) * logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normalisers)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normalisers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = (hidden[part] @ weight.t()).float() / ctx.temperature
            # d logprob / d logits = onehot(target) - softmax
            grad_logits = torch.exp(logits - normalisers[part, None]).neg_()
            grad_logits.scatter_add_(1, targets[part, None], torch.ones_like(grad_logits[:, :1]))
            grad_logits *= (gradients[0][part] / ctx.temperature)[:, None]
            grad_hidden[part] = grad_logits.to(weight.dtype) @ weight
            grad_weight += grad_logits.t() @ hidden[part].float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each target token, straight from hidden states.

    No tensor of tokens x vocabulary exists, forward or backward: at most ``chunk`` rows of it do at a time.

    Args:
        hidden: [N, H], the state that predicts each target.
        weight: [V, H], the output embedding.
        targets: [N] int64.
        temperature: divides the logits, as it did when the tokens were sampled.
        chunk: rows of logits in memory at once.

    Returns:
        Log-probabilities [N] float32 with gradient, entropies [N] float32 (nats) without.

    """
    return _TokenLogprobs.apply(hidden, weight, targets, temperature, chunk)


def clipped_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """PPO's clipped surrogate, negated, per token: max(-A r, -A clip(r, 1 - low, 1 + high)).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, with separate bounds as in DAPO (arXiv 2503.14476).

    Returns:
        Loss [N], the ratio [N] without gradient, and whether the clip took effect [N] bool.

    """
    ratio = torch.exp((logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), ratio.detach(), clipped > plain


def kl_divergence(logprobs: torch.Tensor, reference: torch.Tensor, estimator: str) -> torch.Tensor:
    """KL(policy || reference) per token, estimated on the policy's own samples.

    ``k1`` = log p/q, ``k2`` = (log p/q)^2 / 2, ``k3`` = q/p - 1 - log q/p: Schulman, "Approximating KL divergence",
    2020. k3 is GRPO's choice (arXiv 2402.03300, equation 4): never negative, of low variance.

    Raises:
        ValueError: another estimator.

    """
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.exp(difference) - 1 - difference
    raise ValueError(f"KL estimator {estimator!r} is not one of k1, k2, k3")
