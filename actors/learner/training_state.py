"""The training state of one rank, as plain tensors of this rank and a record of the rest: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from actors.learner import random_state
from actors.learner.checkpoint import trained_only

if TYPE_CHECKING:
    from actors.learner.steps import Trainer

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of a tensor."""


@dataclass(frozen=True, slots=True)
class StateRecord:
    """What a copy holds besides the bytes of tensors."""

    table: list[Entry]
    """The tensors, in their order."""
    values: dict[str, Any]
    """The optimisers' state that is no tensor, by name."""
    groups: list[list[dict[str, Any]]]
    """The parameter groups of each optimiser, without their parameters."""
    generators: dict[str, Any]
    """Random number generators."""
    step: int
    skipped: int

    @classmethod
    def of(cls, trainer: Trainer, table: list[Entry]) -> StateRecord:
        """The trainer's, and this process's, as they are now."""
        return cls(
            table,
            {name: value for name, value in _optimizer_state(trainer) if not isinstance(value, torch.Tensor)},
            [
                [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
                for optimizer in trainer.optimizers
            ],
            random_state.capture(),
            trainer.step,
            trainer.skipped,
        )

    def give_counts(self, trainer: Trainer) -> None:
        """Let the trainer's steps and this process's random numbers go on where they were; the last to be done."""
        trainer.step, trainer.skipped = self.step, self.skipped
        random_state.restore(self.generators)


def state_tensors(trainer: Trainer) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain tensors of this rank that are trained, buffers, and the optimisers' state, by name, always in one order."""
    for name, parameter in trainer.judge.named_parameters():
        if parameter.requires_grad:
            yield from _plain(f"model.{name}", parameter)
    for name, buffer in _persistent_buffers(trainer.judge):
        yield from _plain(f"model.{name}", buffer)
    for name, value in _optimizer_state(trainer):
        if isinstance(value, torch.Tensor):
            yield from _plain(name, value)


def _plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """What a sharded or quantised tensor is made of on this rank."""
    tensor = tensor.detach()
    if type(tensor) is torch.Tensor:
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
        if isinstance(inner := getattr(tensor, part), torch.Tensor):
            yield from _plain(f"{name}.{part}", inner)


def _persistent_buffers(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def _optimizer_state(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    for number, place, parameter in _parameters(trainer):
        for key, value in sorted(trainer.optimizers[number].state.get(parameter, {}).items()):
            yield f"optimizer.{number}.{place}.{key}", value


def _parameters(trainer: Trainer) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Optimiser, place in it, parameter."""
    for number, optimizer in enumerate(trainer.optimizers):
        for place, parameter in enumerate(each for group in optimizer.param_groups for each in group["params"]):
            yield number, place, parameter


def table_of(tensors: Sequence[tuple[str, torch.Tensor]]) -> list[Entry]:
    """What there is to say about tensors besides their bytes."""
    return [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors]


def give_state(trainer: Trainer, record: StateRecord) -> None:
    """Give the optimisers state of the kinds that a copy has, whose tensors are still to be filled."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    names = [name for name, _, _ in record.table] + list(record.values)
    stated = {".".join(name.split(".")[1:3]) for name in names if name.startswith("optimizer.")}
    if stated:
        # Makes up what an optimiser that has not stepped has none of.
        get_state_dict(trainer.judge, trainer.optimizers, options=trained_only())
    for number, place, parameter in list(_parameters(trainer)):
        state = trainer.optimizers[number].state
        if f"{number}.{place}" not in stated:
            state.pop(parameter, None)
            continue
        for key in state[parameter]:
            if (name := f"optimizer.{number}.{place}.{key}") in record.values:
                state[parameter][key] = record.values[name]
    for optimizer, groups in zip(trainer.optimizers, record.groups, strict=True):
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group.update(values)
