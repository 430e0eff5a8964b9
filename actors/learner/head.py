"""The output head: log-probabilities of tokens straight from hidden states, without logits of all positions.

Logits and the gradient of the embedding are float32, whatever the type of the operands. CUDA has products of 16-bit
matrices in float32. A CPU has none: there the operands are copied to float32, once per pass.
"""

from __future__ import annotations

from typing import Any

import torch

from actors.learner.choices import LOGITS_BYTES


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h Wᵀ / t)[target] and its entropy, chunk by chunk, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states, embedding = _operand(hidden), _operand(weight)
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies, normalisers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = _logits(states[part], embedding, temperature)
            normalisers[part] = torch.logsumexp(logits, dim=-1)
            logits -= normalisers[part, None]
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0]
            # Not normaliser - sum p x logit: of a peaked distribution, that is a small difference of large numbers.
            entropies[part] = -torch.exp(logits).mul_(logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, normalisers, entropies)
        ctx.temperature, ctx.chunk = temperature, chunk
        # A loss without an entropy bonus then pays nothing for the entropies' gradient.
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, normalisers, entropies = ctx.saved_tensors
        of_logprobs, of_entropies = gradients
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(normalisers)
        states, embedding = _operand(hidden), _operand(weight)
        grad_hidden = torch.empty_like(hidden)
        # With adapters, the output embedding is frozen.
        trained = ctx.needs_input_grad[1]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if trained else None
        for start in range(0, len(targets), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = _logits(states[part], embedding, ctx.temperature)
            logits -= normalisers[part, None]
            # d logprob / d logits = onehot(target) - softmax
            grad_logits = (logits.exp_() if of_entropies is None else torch.exp(logits)).neg_()
            if of_entropies is not None:
                # d entropy / d logits = -softmax x (log softmax + entropy)
                logits.add_(entropies[part, None]).mul_(grad_logits).mul_(of_entropies[part, None])
            grad_logits.scatter_add_(1, targets[part, None], torch.ones_like(grad_logits[:, :1]))
            grad_logits *= of_logprobs[part, None]
            if of_entropies is not None:
                grad_logits += logits
            grad_logits /= ctx.temperature
            operand = grad_logits.to(weight.dtype)
            grad_hidden[part] = operand @ weight
            if grad_weight is not None:
                _add_product(grad_weight, operand.to(embedding.dtype).t(), states[part])
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _operand(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.float() if matrix.device.type == "cpu" else matrix


def _logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    """[n, V] float32, never rounded to the operands' type; a tensor of our own that may be changed in place."""
    if hidden.dtype == torch.float32:
        logits = hidden @ weight.t()
    else:
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    return logits.div_(temperature) if temperature != 1 else logits


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """``total += left @ right`` within the product, so that there is no other tensor of total's size."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each target token, straight from hidden states.

    No tensor of tokens x vocabulary exists, forward or backward: at most ``chunk`` rows of it do at a time.

    Args:
        hidden: [N, H], the state that predicts each target.
        weight: [V, H], the output embedding, of the same type.
        targets: [N] int64.
        temperature: divides the logits, as it did when the tokens were sampled.
        chunk: rows of logits in memory at once; None: as many as the device's ``choices.LOGITS_BYTES`` hold.

    Returns:
        Log-probabilities and entropies (nats), [N] float32 each, both with gradient.

    """
    rows = chunk or max(1, LOGITS_BYTES[hidden.device.type] // (4 * len(weight)))
    return _TokenLogprobs.apply(hidden, weight, targets, temperature, rows)
