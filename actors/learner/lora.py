"""Low-rank adapters: small matrices are trained beside frozen layers, and merged when weights leave the learner.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. The layers are peft's. They have no dropout: the
engines know none, so that with it no ratio between learner and engine would be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from actors.learner.settings import LoraSettings, ModelError

_ADAPTER = "default"
_EVERY_LINEAR = "all-linear"


def add_adapters(lm: Any, settings: LoraSettings, seed: int) -> None:
    """Freeze ``lm`` and put adapters beside its target layers; equal on all ranks, and at first without effect.

    Raises:
        ModelError: a target is the name of no linear layer within the decoder.

    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = [name for name, module in lm.get_decoder().named_modules() if isinstance(module, nn.Linear)]
    for target in settings.targets:
        if target != _EVERY_LINEAR and not any(f".{name}".endswith(f".{target}") for name in layers):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ModelError(
                f"learner.lora.targets: {target!r} is the name of no linear layer of {type(lm).__name__}; "
                f"there are {known}, or {_EVERY_LINEAR} for all of them"
            )
    wanted = _EVERY_LINEAR if _EVERY_LINEAR in settings.targets else list(settings.targets)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=wanted, lora_dropout=0.0, bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, lm)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Within, ``model`` computes what it did before adapters were added; a model that has none stays as it is."""
    from peft.tuners.lora import LoraLayer

    # Scaled by 0, not switched off: peft's switch freezes the adapters too, which FSDP2 would not notice.
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.set_scale(_ADAPTER, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(_ADAPTER, 1.0)


def merged(named: Iterable[tuple[str, torch.Tensor]], settings: LoraSettings) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole tensors of a model with adapters as those of the model without: W + alpha / rank x B A."""
    held: dict[tuple[str, str], torch.Tensor] = {}
    for name, tensor in named:
        layer, _, part = name.partition(".base_layer.")
        if part and part != "weight":
            yield f"{layer}.{part}", tensor
        elif part:
            held[layer, "W"] = tensor
        elif ".lora_A." in name:
            held[name.partition(".lora_A.")[0], "A"] = tensor
        elif ".lora_B." in name:
            layer = name.partition(".lora_B.")[0]
            weight, down = held.pop((layer, "W")), held.pop((layer, "A"))
            yield f"{layer}.weight", torch.addmm(weight, tensor, down, alpha=settings.alpha / settings.rank)
        else:
            yield name, tensor
