"""The judge as a learner holds it: a Transformers causal LM, sharded with FSDP2, that returns log-probabilities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from actors.learner.batching import PaddedBatch
from actors.learner.objectives import token_logprobs
from actors.learner.settings import ModelError


class Judge(nn.Module):
    """A causal LM whose forward ends in log-probabilities of completion tokens, not in logits.

    The output embedding is used inside the forward of the FSDP root, where it is gathered, so no logits of all
    positions are ever made and prompt positions are not scored.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm: Any = lm

    def forward(self, batch: PaddedBatch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (with gradient) and entropies (without) of the batch's targets: [N] float32 each."""
        states = self.lm.get_decoder()(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        chosen = states.flatten(0, 1).index_select(0, batch.positions)
        logprobs, entropies = token_logprobs(chosen, self.lm.get_output_embeddings().weight, batch.targets, temperature)
        # A batch without targets still has to run backward through every layer: other ranks wait in its collectives.
        return logprobs + 0.0 * states.float().mean() if not len(batch.targets) else logprobs, entropies


def load_judge(
    path: str,
    mesh: DeviceMesh,
    *,
    device: str,
    dtype: str,
    activation_checkpointing: bool = False,
    reshard_after_forward: bool = True,
    trainable: bool = True,
) -> Judge:
    """Load a checkpoint by directory or hub name and shard it over ``mesh``.

    Parameters are kept in float32. With ``dtype`` bfloat16 they are gathered and used in bfloat16 while gradients
    are reduced in float32. Gradients are summed over ranks, not averaged: losses are divided by global counts.

    Raises:
        ModelError: there is no checkpoint at ``path``, or it is not a causal language model.

    """
    from transformers import AutoModelForCausalLM

    if path.startswith((".", "/")) and not Path(path).is_dir():
        raise ModelError(f"there is no model at {path}")
    try:
        lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a causal language model from {path!r}: {str(error).splitlines()[0]}") from error
    lm.config.use_cache = False
    if activation_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    judge = Judge(cast(nn.Module, lm).to(device))
    judge.train(trainable)
    judge.requires_grad_(trainable)
    precision = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if dtype == "bfloat16"
        else MixedPrecisionPolicy()
    )
    for layer in lm.get_decoder().layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=reshard_after_forward)
    fully_shard(judge, mesh=mesh, mp_policy=precision, reshard_after_forward=reshard_after_forward)
    for module in judge.modules():
        if isinstance(module, FSDPModule):
            # Both together mean a plain sum: gloo knows no other reduction than that and an average.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    return judge


def full_state(judge: Judge) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter in Hugging Face naming as a full CPU tensor; all ranks take part and must exhaust it.

    A tied output embedding is the input embedding under another name and comes once, as checkpoints store it.
    """
    for name, parameter in judge.lm.named_parameters():
        full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        yield name, full.detach().cpu()


def export(judge: Judge, source: str, directory: str, rank: int) -> None:
    """Write the model with ``source``'s tokenizer in Hugging Face format, at once or not at all; rank 0 writes."""
    state = dict(full_state(judge))
    if rank != 0:
        return
    from transformers import AutoTokenizer, PreTrainedModel

    target = Path(directory)
    partial = target.with_name(f"{target.name}.tmp-export")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    lm = cast(PreTrainedModel, judge.lm)
    dtype = getattr(torch, _stored_dtype(source))
    lm.save_pretrained(partial, state_dict={name: tensor.to(dtype).contiguous() for name, tensor in state.items()})
    AutoTokenizer.from_pretrained(source).save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def _stored_dtype(source: str) -> str:
    """The data type in which a checkpoint is stored; what is exported keeps it."""
    from transformers import AutoConfig

    dtype: Any = AutoConfig.from_pretrained(source).dtype
    return str(dtype or torch.float32).removeprefix("torch.")
