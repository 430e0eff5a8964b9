"""Schedules by hand, Muon against PyTorch's own, and who is optimised by what."""

from __future__ import annotations

import pytest
import torch
from small_settings import small_optimizer
from torch import nn

from actors.learner.optimizers import (
    ShardedMuon,
    _assign,
    build_optimizers,
    learning_rate_factor,
    scale_learning_rates,
)
from actors.learner.sharding import shard_rows


def test_schedules_by_hand() -> None:
    def factors(schedule: str, steps: list[int]) -> list[float]:
        settings = small_optimizer(total_steps=11, warmup_steps=4, schedule=schedule, final_fraction=0.1)
        return [learning_rate_factor(settings, step) for step in steps]

    assert factors("constant", [0, 1, 3, 4, 10]) == [0.25, 0.5, 1.0, 1.0, 1.0]
    # Decay runs over steps 4 to 10: step 7 is half way.
    assert factors("linear", [4, 7, 10, 20]) == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert factors("cosine", [4, 7, 10, 20]) == pytest.approx([1.0, 0.55, 0.1, 0.1])
    with pytest.raises(ValueError, match="zigzag"):
        factors("zigzag", [4])


def test_muon_on_one_rank_is_pytorchs_muon() -> None:
    torch.manual_seed(0)
    shapes = [(6, 6), (12, 6), (6, 12)]
    start = [torch.randn(shape) for shape in shapes]
    ours = [nn.Parameter(tensor.clone()) for tensor in start]
    theirs = [nn.Parameter(tensor.clone()) for tensor in start]
    optimizers = [
        ShardedMuon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1),
    ]
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 4)
        self.mlp = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 7, bias=False)


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    model = Small()
    settings = small_optimizer(name="muon", learning_rate=3e-3, muon_learning_rate=0.02, weight_decay=0.01)
    adamw, muon = build_optimizers(model, settings)
    assert [id(parameter) for group in muon.param_groups for parameter in group["params"]] == [id(model.mlp.weight)]
    assert {group["lr"] for group in muon.param_groups} == {0.02}
    decayed = {id(parameter) for group in adamw.param_groups if group["weight_decay"] for parameter in group["params"]}
    assert decayed == {id(model.embed_tokens.weight), id(model.lm_head.weight)}
    held = sum(len(group["params"]) for optimizer in (adamw, muon) for group in optimizer.param_groups)
    assert held == len(list(model.parameters()))


def test_adamw_alone_holds_everything_and_an_unknown_name_is_refused() -> None:
    model = Small()
    (adamw,) = build_optimizers(model, small_optimizer(name="adamw"))
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="adamww"):
        build_optimizers(model, small_optimizer(name="adamww"))


@pytest.mark.slow
def test_adamw_in_8_bits_goes_where_adamw_goes_with_a_quarter_of_the_state() -> None:
    torch.manual_seed(0)
    inputs, wanted = torch.randn(64, 128), torch.randn(64, 64)

    def train(name: str) -> tuple[list[float], int, torch.Tensor]:
        torch.manual_seed(1)
        model = nn.Linear(128, 64, bias=False)
        [optimizer] = build_optimizers(model, small_optimizer(name=name, learning_rate=1e-2))
        losses = []
        for step in range(12):
            scale_learning_rates([optimizer], 1.0 if step < 10 else 0.0)
            loss = (model(inputs) - wanted).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        moments = [optimizer.state[model.weight][moment] for moment in ("exp_avg", "exp_avg_sq")]
        return losses, sum(_bytes(moment) for moment in moments), model.weight.detach()

    plain, plain_bytes, plain_weight = train("adamw")
    small, small_bytes, small_weight = train("adamw8bit")
    assert plain_bytes == 8 * plain_weight.numel()
    assert small_bytes < 0.3 * plain_bytes
    assert plain[-1] < 0.8 * plain[0]
    assert small == pytest.approx(plain, rel=0.01)
    assert small[-1] == small[-2], "a learning rate of 0 moves nothing"
    assert not torch.equal(small_weight, plain_weight)


def _bytes(tensor: torch.Tensor) -> int:
    """Memory of a tensor, or of the codes and scales that a quantised one is made of."""
    parts = [getattr(tensor, name) for name in ("codes", "scale", "qmap") if hasattr(tensor, name)] or [tensor]
    return sum(part.numel() * part.element_size() for part in parts)


def test_rows_of_a_shard_are_those_of_chunk() -> None:
    for rows in range(1, 20):
        for ranks in range(1, 6):
            chunks = [len(chunk) for chunk in torch.arange(rows).chunk(ranks)]
            chunks += [0] * (ranks - len(chunks))
            assert [shard_rows(rows, rank, ranks) for rank in range(ranks)] == chunks


def test_matrices_are_assigned_once_and_evenly() -> None:
    matrices = [torch.empty(8, 8)] * 5 + [torch.empty(16, 8)] * 3
    owned = _assign(matrices, 2)
    assert sorted(index for indices in owned for index in indices) == list(range(8))
    costs = [sum(8 * 8 * max(matrices[index].shape) for index in indices) for indices in owned]
    # 11 units of 512 in all: 6 and 5 is the best there is.
    assert sorted(costs) == [5 * 512, 6 * 512]
