"""Memory of one learner rank, part by part, at the moment of its peak. docs/plan.md derives the formulas.

Held to torch's own ``FSDPMemTracker`` for every recipe by ``tests/pipelines/planning/test_memory_tracker.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.learner.choices import LOGITS_BYTES
from pipelines.planning.shape import ModelShape

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MASTER = 4
"""Bytes of a trained parameter, of its gradient, and of an element of the reduction: float32."""

# Chunks of logits that exist at a time.
_CHUNKS = 2.5
# As wide as the MLP: what a layer keeps for its backward (gate, its activation, up, their product); what is left of it
# while the MLP's own backward runs, and the gradients that are there then.
_MLP, _MLP_LEFT, _MLP_GRADIENTS = 4, 3, 3
# Tensors of tokens x hidden around the output head.
_AROUND_HEAD = 4
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LearnerLoad:
    """What decides a rank's memory besides the model."""

    ranks: int
    dtype: str
    tokens: int
    """Of a micro-batch, padding included."""
    checkpointing: bool
    """Of activations."""
    reshard: bool
    """After forward; otherwise gradients are reduced once per step too."""
    offload: str
    """`none`, `reference` or `all`."""
    reference: bool
    """A frozen reference policy is loaded."""
    optimizer: str
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()
    device: str = "cuda"


@dataclass(frozen=True, slots=True)
class LearnerMemory:
    """A rank's memory in bytes."""

    parts: dict[str, float]
    """On its device (with CPU ranks, in the machine's memory), at the peak; they sum to it."""
    moment: str
    """When that is: `layer`, `head` or `embeddings` of the backward."""
    host: float
    """What is offloaded to the machine's memory."""
    between: float
    """On its device between steps: what leaves it where engines have it in turn."""

    @property
    def peak(self) -> float:
        """Their sum."""
        return sum(self.parts.values())


def trained_parameters(shape: ModelShape, lora_rank: int, targets: Sequence[str]) -> int:
    """Parameters that are trained: all, or the adapters' (rank x (inputs + outputs) for each matrix they go to)."""
    if not lora_rank:
        return shape.parameters
    chosen = [
        size
        for name, size in zip(_LINEAR, shape.linear, strict=True)
        if any(target == "all-linear" or target.rpartition(".")[2] == name for target in targets)
    ]
    return shape.layers * lora_rank * sum(rows + columns for rows, columns in chosen)


def optimizer_bytes(shape: ModelShape, optimizer: str, trained: int) -> float:
    """State of an optimiser over all ranks: two float32 moments, their 8-bit form in blocks of 256, or Muon's one."""
    if optimizer == "adamw8bit":
        return trained * 2 * (1 + 4 / 256)
    if optimizer == "muon":
        # Vectors and embeddings are AdamW's.
        matrices = shape.layers * sum(rows * columns for rows, columns in shape.linear)
        hidden = min(trained, matrices)
        return MASTER * (hidden + 2 * (trained - hidden))
    return 2 * MASTER * trained


def learner_memory(shape: ModelShape, load: LearnerLoad) -> LearnerMemory:
    """The largest of three moments of a backward pass, from the second micro-batch on, when gradients are there."""
    size, ranks, full = BYTES[load.dtype], load.ranks, load.lora_rank == 0
    trained = trained_parameters(shape, load.lora_rank, load.lora_targets)
    adapters = 0 if full else trained
    several = ranks > 1
    # The state, sharded over the ranks.
    state = {
        "parameters": MASTER * trained / ranks + (0 if full else size * shape.parameters / ranks),
        "gradients": MASTER * trained / (ranks if load.reshard else 1),
        "optimizer": optimizer_bytes(shape, load.optimizer, trained) / ranks,
        "reference": 0.0,
    }
    host = between = 0.0
    if load.reference and full:
        shard = size * shape.parameters / ranks
        host += shard if load.offload != "none" else 0.0
        between += shard if load.offload == "none" else 0.0
        state["reference"] = (0.0 if load.offload != "none" else shard) + (
            0.0 if load.reshard else size * shape.parameters
        )
    if load.offload == "all":
        host += state["parameters"] + state["gradients"] + state["optimizer"]
        state |= {"parameters": 0.0, "gradients": 0.0, "optimizer": 0.0}
    between += state["parameters"] + state["optimizer"]
    # Whole parameters: those outside the layers, one layer and the next, or all layers.
    layer = size * (shape.layer + adapters / shape.layers)
    root, ahead = size * shape.root, layer if several and load.reshard else 0.0
    around, inside = (root + ahead, root + layer + ahead) if load.reshard else (root + shape.layers * layer,) * 2
    reduced = MASTER * (shape.layer if full else adapters / shape.layers) if load.reshard else 0.0
    # Activations.
    hidden, wide = size * load.tokens * shape.hidden, size * load.tokens * shape.intermediate
    kept = _kept_by_layer(shape, load)
    stored = shape.layers * (hidden if load.checkpointing else kept + _MLP * wide)
    mlp = _MLP_GRADIENTS * wide + (size * shape.hidden * shape.intermediate if full else 0)
    backward = mlp + (kept + _MLP_LEFT * wide if load.checkpointing else (_MLP_LEFT - _MLP) * wide)
    # The head: its gradient in float32, and later in the compute type; on a CPU a float32 copy of 16-bit operands.
    head = size * shape.embedding if full else 0.0
    chunks = min(load.tokens * shape.vocabulary * 4, LOGITS_BYTES[load.device]) * _CHUNKS
    copied = MASTER * shape.embedding if load.device == "cpu" and size < MASTER else 0.0
    scored = chunks + copied + (MASTER * shape.embedding if full else 0.0)
    moments = {
        "layer": _moment(inside, reduced, stored + backward, head),
        "head": _moment(around, 0.0, stored + _AROUND_HEAD * hidden, scored),
        "embeddings": _moment(0.0, (MASTER + size) * shape.root if several and full else 0.0, 0.0, 0.0),
    }
    worst = max(moments, key=lambda name: sum(moments[name].values()))
    return LearnerMemory(state | moments[worst], worst, host, between)


def _moment(gathered: float, reduction: float, activations: float, logits: float) -> dict[str, float]:
    return {"gathered": gathered, "reduction": reduction, "activations": activations, "logits": logits}


def _kept_by_layer(shape: ModelShape, load: LearnerLoad) -> float:
    """Bytes a layer keeps for its backward besides what is as wide as the MLP."""
    size = BYTES[load.dtype]
    short = size < MASTER
    # Each of two norms keeps what it normalised and what it gave, and where computation is in 16 bits a float32 copy of
    # its input. Otherwise the inputs themselves; the first is stored already where activations are recomputed.
    norms = 2 * 2 + (2 * MASTER // size if short else 1 + (not load.checkpointing))
    # Attention: queries and its output; keys and values.
    widths = norms * shape.hidden + 2 * (shape.queries + shape.keys)
    if shape.normed_heads:
        widths += (1 + (MASTER // size if short else 0)) * (shape.queries + shape.keys)
    return size * load.tokens * widths
