"""The output head against the plain formula, and what it computes with: chunks, types, tensors of the head's size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from actors.learner.choices import LOGITS_BYTES
from actors.learner.head import token_logprobs


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_chunked_logprobs_equal_plain_ones_and_so_do_their_gradients(chunk: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    # Logits of variance 1 before the temperature: of 10 and more, float32 itself no longer resolves 1e-6.
    hidden, weight = torch.randn(20, 8, generator=generator), torch.randn(50, 8, generator=generator) / math.sqrt(8)
    targets, upstream = torch.randint(0, 50, (20,), generator=generator), torch.randn(20, generator=generator)
    of_entropy = torch.randn(20, generator=generator)

    def leaves(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return hidden.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True).requires_grad_()

    # The plain formula in float64: what is left is the rounding of float32.
    plain_hidden, plain_weight = leaves(torch.float64)
    full = torch.log_softmax(plain_hidden @ plain_weight.t() / temperature, dim=-1)
    plain = full.gather(1, targets[:, None])[:, 0]
    plain_entropy = -(full.exp() * full).sum(-1)
    (plain * upstream + plain_entropy * of_entropy).sum().backward()
    our_hidden, our_weight = leaves(torch.float32)
    ours, entropy = token_logprobs(our_hidden, our_weight, targets, temperature=temperature, chunk=chunk)
    (ours * upstream + entropy * of_entropy).sum().backward()

    for mine, exact in (
        (ours, plain),
        (entropy, plain_entropy),
        (our_hidden.grad, plain_hidden.grad),
        (our_weight.grad, plain_weight.grad),
    ):
        assert mine is not None
        assert exact is not None
        # Relative to the largest entry: small ones are differences of terms of that size.
        # A handful of float32 roundings, which is what other processors' kernels may differ by.
        assert (mine.double() - exact).abs().max() < 32 * torch.finfo(torch.float32).eps * exact.abs().max()


def test_gradients_of_the_two_results_do_not_need_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(5, 4, generator=generator), torch.randn(7, 4, generator=generator)
    targets = torch.randint(0, 7, (5,), generator=generator)
    for index in (0, 1):
        ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
        token_logprobs(ours, weight, targets)[index].sum().backward()
        full = torch.log_softmax(plain @ weight.t(), dim=-1)
        (full.gather(1, targets[:, None])[:, 0], -(full.exp() * full).sum(-1))[index].sum().backward()
        torch.testing.assert_close(ours.grad, plain.grad, atol=2e-6, rtol=1e-5)


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


def of_bfloat16(tokens: int, width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, output embedding, targets. Logits have variance 9: some log-probabilities are -15."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * 3 / math.sqrt(width)
    return hidden.bfloat16(), weight.bfloat16(), torch.randint(0, vocabulary, (tokens,), generator=generator)


def test_logits_of_bfloat16_operands_are_not_rounded_to_it() -> None:
    hidden, weight, targets = of_bfloat16(300, 64, 2000)

    def logprobs(logits: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits.double(), -1).gather(1, targets[:, None])[:, 0]

    exact = logprobs(hidden.double() @ weight.double().t())
    ours, _ = token_logprobs(hidden, weight, targets, chunk=70)
    assert (ours - exact).abs().max() < 1e-4
    # What it guards against: the product in bfloat16, of which a log-probability is a unit in the last place off.
    assert (logprobs(hidden @ weight.t()) - exact).abs().max() > 0.02


def test_gradients_of_bfloat16_operands_add_up_in_float32() -> None:
    hidden, weight, targets = of_bfloat16(300, 64, 500)
    mine = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    plain = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logprobs, _ = token_logprobs(*mine, targets, chunk=4)
    logprobs.sum().backward()
    torch.log_softmax(plain[0] @ plain[1].t(), -1).gather(1, targets[:, None]).sum().backward()
    for ours, exact in zip(mine, plain, strict=True):
        assert ours.grad is not None
        assert exact.grad is not None
        # A rounding of one operand and one of the result. Added in bfloat16, 75 chunks would be 0.007 off.
        assert (ours.grad - exact.grad).norm() < 0.003 * exact.grad.norm()


class Calls(TorchDispatchMode):
    """Records every operation: its name, the types of its matrices, and new tensors of at least ``size`` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.products: list[tuple[str, torch.dtype, torch.dtype]] = []
        self.rows: list[int] = []
        self.made: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [value for value in [*args, *(kwargs or {}).values()] if isinstance(value, torch.Tensor)]
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        if name in ("mm", "addmm", "addmm_"):
            self.products.append((name, args[1 if name == "mm" else 2].dtype, result.dtype))
            self.rows.append(args[0 if name == "mm" else 1].shape[0])
        large = isinstance(result, torch.Tensor) and result.numel() >= self.size
        if large and result.untyped_storage()._cdata not in given:
            self.made.append((name, result.dtype))
        return result


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("cpu", "bfloat16"), ("meta", "bfloat16")])
def test_chunks_types_and_tensors_of_the_heads_size(device: str, dtype: str) -> None:
    """``meta`` stands for CUDA, which has products of 16-bit matrices in float32; a CPU copies the operands once."""
    tokens, width, vocabulary, chunk = 10, 16, 300, 4
    kind = getattr(torch, dtype)
    hidden = torch.zeros(tokens, width, dtype=kind, device=device, requires_grad=True)
    weight = torch.zeros(vocabulary, width, dtype=kind, device=device, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.int64, device=device)
    operands, copies = (kind, 0) if device == "meta" or dtype == "float32" else (torch.float32, 1)
    with Calls(vocabulary * width) as forward:
        logprobs, _ = token_logprobs(hidden, weight, targets, chunk=chunk)
    # A chunk is smaller than the head here, so that only tensors of the head's own size count.
    assert [kind for _, kind in forward.made] == [torch.float32] * copies
    assert forward.rows == [4, 4, 2]
    assert forward.products == [("mm", operands, torch.float32)] * 3
    with Calls(vocabulary * width) as backward:
        logprobs.sum().backward()
    # The gradient, however many chunks, and at the end its form in the weight's type.
    made = [torch.float32] * (copies + 1) + ([kind] if dtype == "bfloat16" else [])
    assert sorted(map(str, (kind for _, kind in backward.made))) == sorted(map(str, made))
    added = [call for call in backward.products if call[0].startswith("addmm")]
    assert [call[1:] for call in added] == [(operands, torch.float32)] * 3
    assert len(backward.products) == 9


def test_a_chunk_is_as_large_as_its_device_allows() -> None:
    """At 152,064 entries 220 rows on a CPU; on CUDA eight times as many, so that products are not bound by memory."""
    vocabulary = 152_064
    hidden = torch.zeros(4000, 8, dtype=torch.bfloat16, device="meta")
    with Calls(1) as calls:
        token_logprobs(
            hidden,
            torch.zeros(vocabulary, 8, dtype=torch.bfloat16, device="meta"),
            torch.zeros(4000, dtype=torch.int64, device="meta"),
        )
    assert calls.rows == [1765, 1765, 470]
    assert LOGITS_BYTES["cuda"] == LOGITS_BYTES["meta"] == 8 * LOGITS_BYTES["cpu"]
