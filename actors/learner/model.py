"""The judge as a learner holds it: a Transformers causal LM, sharded with FSDP2, that returns log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AttentionInterface

from actors.files import atomic_folder
from actors.learner.attention import flex_packed_attention, packed_attention
from actors.learner.batching import Batch
from actors.learner.head import token_logprobs
from actors.learner.lora import add_adapters, merged
from actors.learner.settings import LoraSettings, ModelError
from actors.learner.sharding import fill, gather_whole, set_aside

# Configuration keys by which a model changes its logits after the output embedding.
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_PADDED = "set learner.packing=false"
_SDPA = "set learner.attention=sdpa"

AttentionInterface.register("packed_sdpa", packed_attention)
AttentionInterface.register("packed_flex", flex_packed_attention)


class Judge(nn.Module):
    """A causal LM whose forward ends in log-probabilities of completion tokens, not in logits.

    The output embedding is used inside the forward of the FSDP root, where it is gathered, so no logits of all
    positions are ever made and prompt positions are not scored.
    """

    def __init__(self, lm: Any, lora: LoraSettings | None = None) -> None:
        super().__init__()
        self.lm: Any = lm
        self.lora = lora

    def forward(self, batch: Batch, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (with gradient) and entropies (without) of the batch's targets: [N] float32 each."""
        packed = {} if batch.layout is None else {"position_ids": batch.position_ids, "layout": batch.layout}
        states = self.lm.get_decoder()(input_ids=batch.input_ids, use_cache=False, **packed).last_hidden_state
        chosen = states.flatten(0, 1).index_select(0, batch.positions)
        logprobs, entropies = token_logprobs(chosen, self.lm.get_output_embeddings().weight, batch.targets, temperature)
        # A batch without targets still has to run backward through every layer: other ranks wait in its collectives.
        return logprobs + 0.0 * states.float().mean() if not len(batch.targets) else logprobs, entropies


def load_judge(
    path: str,
    mesh: DeviceMesh,
    *,
    dtype: str,
    activation_checkpointing: bool = False,
    reshard_after_forward: bool = True,
    trainable: bool = True,
    attention: str | None = None,
    offload: bool = False,
    lora: LoraSettings | None = None,
    seed: int = 0,
) -> Judge:
    """Load a checkpoint by directory or hub name and shard it over ``mesh``; see :func:`shard_judge`.

    A rank reads its own rows of the checkpoint and no others, where that is in safetensors, whose files are mapped; and
    it never holds more than its shards.

    Raises:
        ModelError: there is no checkpoint at ``path``, some of its weights are missing, it is not a causal language
            model whose log-probabilities follow from hidden states and output embedding alone, ``lora`` names a layer
            that it does not have, or ``attention`` of packed rows cannot compute it.

    """
    lm = _read(path)
    if attention is not None:
        _refuse_unpackable(lm, path, attention)
        lm.set_attn_implementation(f"packed_{attention}")
    judge = _around(lm, activation_checkpointing, trainable, lora, seed)
    values = set_aside(judge)
    _shard(judge, mesh, dtype, reshard_after_forward, offload)
    fill(judge, values, "cpu" if offload else mesh.device_type, mesh.get_group())
    return judge


def shard_judge(
    lm: Any,
    mesh: DeviceMesh,
    *,
    dtype: str,
    activation_checkpointing: bool,
    reshard_after_forward: bool,
    trainable: bool,
    offload: bool,
    lora: LoraSettings | None,
    seed: int,
) -> Judge:
    """A judge around ``lm``, sharded over ``mesh`` with the values that it has.

    Trained parameters are kept in float32, frozen ones in ``dtype``. With ``dtype`` bfloat16 they are gathered and used
    in bfloat16 while gradients are reduced in float32. Gradients are summed over ranks, not averaged: losses are
    divided by global counts. With ``offload``, shards, gradients and so the optimiser's state stay in the machine's
    memory, and parameters come to the device one layer at a time. With ``lora``, only adapters are trained, which begin
    from ``seed``.

    Raises:
        ModelError: ``lora`` names a layer that the model does not have.

    """
    judge = _around(lm, activation_checkpointing, trainable, lora, seed)
    _shard(judge, mesh, dtype, reshard_after_forward, offload)
    return judge


def _around(lm: Any, activation_checkpointing: bool, trainable: bool, lora: LoraSettings | None, seed: int) -> Judge:
    if activation_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    judge = Judge(lm, lora)
    judge.train(trainable)
    if lora is None:
        judge.requires_grad_(trainable)
    else:
        add_adapters(lm, lora, seed)
    return judge


def _shard(judge: Judge, mesh: DeviceMesh, dtype: str, reshard_after_forward: bool, offload: bool) -> None:
    compute = getattr(torch, dtype)
    precision = MixedPrecisionPolicy()
    if compute != torch.float32:
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for module in [*judge.lm.get_decoder().layers, judge]:
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else compute)
        fully_shard(
            module,
            mesh=mesh,
            mp_policy=precision,
            reshard_after_forward=reshard_after_forward,
            offload_policy=CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy(),
        )
    for module in judge.modules():
        if isinstance(module, FSDPModule):
            # Both together mean a plain sum: gloo knows no other reduction than that and an average.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def _read(path: str) -> Any:
    """A causal LM on the CPU in its stored data type, checked to be one that :class:`Judge` computes right."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if path.startswith((".", "/")) and not Path(path).is_dir():
        raise ModelError(f"there is no model at {path}")
    try:
        if "text_config" in AutoConfig.from_pretrained(path).sub_configs:
            raise ModelError(
                f"the model at {path!r} reads more than text, and learners would not find its parts where engines do: "
                "save its language model as a checkpoint of its own, or choose a base model of text alone"
            )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", attn_implementation="sdpa", output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"cannot load a causal language model from {path!r}: {str(error).splitlines()[0]}") from error
    lm, found = loaded
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelError(
            f"the model at {path!r} lacks {len(missing)} of its weights ({missing[0]}, ...): it is damaged"
        )
    head = lm.get_output_embeddings()
    changed = [name for name in _LOGIT_CHANGES if getattr(lm.config, name, None) not in (None, 1.0)]
    if head is None or getattr(head, "bias", None) is not None or changed:
        what = changed[0] if changed else "an output layer that is not a plain matrix"
        raise ModelError(f"the model at {path!r} has {what}, which learners do not compute: choose another base model")
    return lm


def _refuse_unpackable(lm: Any, path: str, attention: str) -> None:
    """Refuse a model that packed rows would compute wrong, and one whose heads or dropout a kernel does not take."""
    config: Any = lm.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None):
        kinds = {"sliding_attention"}
    if other := sorted(kinds - {"full_attention"}):
        raise ModelError(f"the model at {path!r} has layers of {other[0]}, which packed rows do not know: {_PADDED}")
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if attention == "flex" and heads < 16:
        raise ModelError(f"the model at {path!r} has heads of {heads}, flex attention at least 16: {_SDPA}")
    if attention == "flex" and getattr(config, "attention_dropout", None):
        raise ModelError(f"the model at {path!r} has dropout in attention, flex attention has none: {_SDPA}")


def synchronise_gradients(judge: Judge, now: bool) -> None:
    """Whether the next backward ends in the reduction of gradients over ranks; before it, they pile up on each rank.

    Only for models that stay whole between forward and backward: one reduction per step instead of one per micro-batch,
    at the price of whole gradients in memory.
    """
    root = cast(FSDPModule, judge)
    root.set_requires_gradient_sync(now)
    root.set_reshard_after_backward(now)


def full_state(judge: Judge, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter in Hugging Face naming as a whole tensor; all ranks take part and must exhaust it.

    A tied output embedding is the input embedding under another name and comes once, as checkpoints store it. Adapters
    are merged into their layers, in float32.
    """
    names, parameters = zip(*judge.lm.named_parameters(), strict=True)
    group = parameters[0].device_mesh.get_group()
    if judge.lora is None:
        yield from zip(names, gather_whole(parameters, dtype, group), strict=True)
    else:
        wholes = zip(names, gather_whole(parameters, torch.float32, group), strict=True)
        yield from ((name, whole.to(dtype)) for name, whole in merged(wholes, judge.lora))


def export(judge: Judge, source: str, directory: str, rank: int) -> None:
    """Write the model with ``source``'s configuration and tokenizer in Hugging Face format; rank 0 writes.

    The weights keep the data type in which ``source`` stores them. The folder appears whole or not at all.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source)
    dtype = config.dtype or torch.float32
    state = {name: tensor.cpu() for name, tensor in full_state(judge, dtype) if rank == 0}
    if rank != 0:
        return
    # A model without weights writes the state: the trained one carries settings of training and FSDP2's classes.
    with torch.device("meta"):
        blank = AutoModelForCausalLM.from_config(config, dtype=dtype)
    blank.generation_config = judge.lm.generation_config
    with atomic_folder(Path(directory)) as partial:
        blank.save_pretrained(partial, state_dict=state)
        AutoTokenizer.from_pretrained(source).save_pretrained(partial)
