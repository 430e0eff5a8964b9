"""Optimisers and schedules of a learner rank: AdamW, its 8-bit form, and Muon for hidden matrices, on FSDP2 shards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# Muon's own scaling by shape, so that one rank gives exactly what torch.optim.Muon gives.
from torch.optim._muon import _adjust_lr

from actors.learner.choices import OPTIMIZERS
from actors.learner.settings import OptimizerSettings
from actors.learner.sharding import exchange, local, shard_rows


def learning_rate_factor(settings: OptimizerSettings, step: int) -> float:
    """Share of the learning rate at step ``step`` (from 0): linear warm-up, then constant, cosine or linear decay.

    The first step of a warm-up of n has 1/n, not 0; the last step of a decay has ``final_fraction``.

    Raises:
        ValueError: an unknown schedule.

    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - settings.warmup_steps) / max(1, settings.total_steps - 1 - settings.warmup_steps))
    if settings.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule == "linear":
        decay = 1 - progress
    else:
        raise ValueError(f"schedule {settings.schedule!r} is not one of constant, cosine, linear")
    return settings.final_fraction + (1 - settings.final_fraction) * decay


class ShardedMuon(torch.optim.Muon):
    """``torch.optim.Muon`` on FSDP2 shards with two collectives a step.

    Momentum stays sharded like its parameter. A step sends every matrix's update, in one all-to-all, to the rank it is
    assigned to by cost; that rank orthogonalises it as a plain tensor; a second all-to-all brings every rank its own
    rows. No rank ever holds more whole matrices than its share. Jordan et al., "Muon: An optimizer for hidden layers
    in neural networks", 2024.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; there is no closure to evaluate again."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            updates = [self._momentum(parameter, group) for parameter in parameters]
            rows = orthogonalised_rows(parameters, updates, group)
            for parameter, update in zip(parameters, rows, strict=True):
                shard = local(parameter)
                shard.mul_(1 - group["lr"] * group["weight_decay"])
                shard.add_(update, alpha=-_adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape))

    def _momentum(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Update this rank's rows of the momentum and return the (Nesterov) direction for them."""
        state = self.state[parameter]
        assert parameter.grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        buffer, gradient = local(state["momentum_buffer"]), local(parameter.grad)
        buffer.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def orthogonalised_rows(
    parameters: list[torch.Tensor], updates: list[torch.Tensor], group: dict[str, Any]
) -> list[torch.Tensor]:
    """This rank's rows of every orthogonalised update, given this rank's rows of the updates."""
    newton_schulz = (group["ns_coefficients"], group["ns_steps"], group["eps"])
    mesh = getattr(parameters[0], "device_mesh", None)
    if mesh is None or mesh.size() == 1:
        return orthogonalise(updates, *newton_schulz)
    process_group, rank, ranks = mesh.get_group(), mesh.get_local_rank(), mesh.size()
    owners = _assign(parameters, ranks)

    def size(index: int, holder: int) -> int:
        return shard_rows(parameters[index].shape[0], holder, ranks) * parameters[index].shape[1]

    # Newton-Schulz begins by rounding to bfloat16, so nothing is lost by sending that.
    outward = [torch.cat([_flat(updates[index]) for index in owned] or [_flat(updates[0][:0])]) for owned in owners]
    mine = owners[rank]
    received = exchange(outward, [sum(size(index, source) for index in mine) for source in range(ranks)], process_group)
    pieces = [part.split([size(index, source) for index in mine]) for source, part in enumerate(received)]
    # FSDP2 shards rows like torch.chunk: joining the ranks' pieces gives the matrix back.
    joined = [torch.cat([piece[place] for piece in pieces]) for place in range(len(mine))]
    whole = orthogonalise(
        [matrix.view(parameters[index].shape) for matrix, index in zip(joined, mine, strict=True)], *newton_schulz
    )
    homeward = [
        torch.cat([_flat(part) for part in parts] or [_flat(updates[0][:0])])
        for parts in _cut_rows(whole, [parameters[index].shape[0] for index in mine], ranks)
    ]
    returned = exchange(homeward, [sum(size(index, rank) for index in owned) for owned in owners], process_group)
    rows: dict[int, torch.Tensor] = {}
    for owned, part in zip(owners, returned, strict=True):
        for index, piece in zip(owned, part.split([size(index, rank) for index in owned]), strict=True):
            rows[index] = piece.view(updates[index].shape)
    return [rows[index] for index in range(len(updates))]


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().flatten()


def _cut_rows(matrices: list[torch.Tensor], heights: list[int], ranks: int) -> list[list[torch.Tensor]]:
    """Each rank's rows of every matrix: rank -> matrix -> rows."""
    cut = [
        matrix.split([shard_rows(height, holder, ranks) for holder in range(ranks)])
        for matrix, height in zip(matrices, heights, strict=True)
    ]
    return [[rows[holder] for rows in cut] for holder in range(ranks)]


def _rounded(matrices: torch.Tensor) -> torch.Tensor:
    """What bfloat16 has of them, in the type that they have."""
    return matrices.bfloat16().to(matrices.dtype)


def orthogonalise(
    matrices: list[torch.Tensor], coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> list[torch.Tensor]:
    """Newton-Schulz iteration towards the nearest orthogonal matrix, in bfloat16, as ``torch.optim.Muon`` does it.

    Matrices of one shape (up to transposition) go through together: the same numbers with a fraction of the calls,
    which is most of the time where matrices are small.
    """
    a, b, c = coefficients
    wide = [matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(wide):
        by_shape.setdefault(matrix.shape, []).append(index)
    results = list(matrices)
    # Processors without bfloat16 arithmetic take many times as long for such products as for those in float32.
    kind = torch.float32 if matrices and matrices[0].device.type == "cpu" else torch.bfloat16
    for indices in by_shape.values():
        stacked = torch.stack([wide[index] for index in indices]).bfloat16()
        stacked /= stacked.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
        stacked = stacked.to(kind)
        for _ in range(steps):
            gram = _rounded(stacked @ stacked.mT)
            inner = _rounded(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
            stacked = _rounded(torch.baddbmm(stacked, inner, stacked, beta=a))
        stacked = stacked.bfloat16()
        for index, result in zip(indices, stacked, strict=True):
            results[index] = result.mT if matrices[index].shape[0] > matrices[index].shape[1] else result
    return results


def _assign(parameters: list[torch.Tensor], ranks: int) -> list[list[int]]:
    """Matrices by rank, the costliest first to the least loaded; cost as of Newton-Schulz, min(rows, cols)^2 x max."""
    costs = [min(parameter.shape) ** 2 * max(parameter.shape) for parameter in parameters]
    load = [0] * ranks
    owned: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        rank = load.index(min(load))
        load[rank] += costs[index]
        owned[rank].append(index)
    return owned


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """Optimisers of a model, to be stepped together.

    With ``muon``, matrices other than embeddings and output head go to Muon. ``adamw8bit`` is torchao's: two bytes of
    state a parameter instead of eight, quantised in blocks (Dettmers et al., "8-bit Optimizers via Block-wise
    Quantization", 2021). Weight decay applies to matrices only.

    Raises:
        ValueError: an unknown optimiser.

    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if settings.name not in OPTIMIZERS:
        raise ValueError(f"optimizer {settings.name!r} is not one of {', '.join(OPTIMIZERS)}")
    hidden = [
        parameter
        for name, parameter in named
        if settings.name == "muon" and parameter.dim() == 2 and not any(part in name for part in ("embed", "lm_head"))
    ]
    chosen = {id(parameter) for parameter in hidden}
    rest = [parameter for _, parameter in named if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [_adamw(rest, settings)]
    if hidden:
        optimizers.append(ShardedMuon(hidden, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = float(group["lr"])
    return optimizers


def scale_learning_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to ``factor`` times the one it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = group["base_lr"] * factor
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _adamw(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "adamw8bit":
        from torchao.optim import AdamW8bit

        return AdamW8bit(groups, lr=settings.learning_rate, betas=settings.betas)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply the gradients of this rank's shards."""
    torch._foreach_mul_([local(parameter.grad) for parameter in parameters if parameter.grad is not None], factor)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, group: Any) -> float:
    """Scale gradients to a global norm of at most ``limit`` (0: leave them) and return the norm before.

    Every element lives on exactly one rank, so the norm is one all-reduce of one number. A norm that is not finite is
    returned as it is and nothing is scaled: the caller skips the step.
    """
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    square = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum()
    dist.all_reduce(square, group=group)
    norm = float(square.sqrt())
    if math.isfinite(norm) and limit > 0 and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm
