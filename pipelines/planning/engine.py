"""Memory of one process of an engine: weights, working memory, and what is left for the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.planning.learner import BYTES, GIB
from pipelines.planning.shape import ModelShape

# Tokens of a block of the cache, as vLLM has it on each device.
_BLOCK = {"cuda": 16, "cpu": 128}
# vLLM pads the vocabulary to a multiple of this.
_VOCABULARY_STEP = 64
# CUDA: context, NCCL and libraries of a process; and captured graphs.
_CONTEXT, _GRAPHS = 1.0 * GIB, 1.0 * GIB
# Float32 tensors of sequences x vocabulary while tokens are sampled: logits, log-probabilities, probabilities.
_LOGITS = 3


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What decides an engine's memory besides the model."""

    device: str
    dtype: str
    devices: int
    """Processes that share each layer."""
    longest: int
    """Tokens of a prompt and its answer together."""
    sequences: int
    """In flight at once."""
    batched_tokens: int
    cache_gib: float
    """CPU: of each process."""
    device_gib: float
    """CUDA: memory of a device."""
    fraction: float
    """CUDA: the engine's share of it."""
    eager: bool


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes of one process, and tokens of the whole engine."""

    parts: dict[str, float]
    """`weights`, `working`, `cache`; the cache is below 0 where the others do not fit."""
    kv_tokens: int
    """Tokens that the cache holds."""
    sequences_at_full_length: int
    """Sequences of the longest length that it holds at once."""
    asleep: float
    """What it keeps of its device while it sleeps."""

    @property
    def total(self) -> float:
        """What the process takes."""
        return sum(self.parts.values())


def cache_bytes_per_token(shape: ModelShape, dtype: str, devices: int) -> int:
    """Keys and values of all layers on one device; where there are fewer heads than devices, each is held several
    times."""
    return 2 * shape.layers * max(1, shape.kv_heads // devices) * shape.head_dim * BYTES[dtype]


def engine_memory(shape: ModelShape, load: EngineLoad) -> EngineMemory:
    """On CUDA an engine takes its share of the device, and the cache is what is left of it; on CPU it is stated."""
    size = BYTES[load.dtype]
    step = _VOCABULARY_STEP * load.devices
    embedding = -(-shape.vocabulary // step) * step * shape.hidden
    weights = size * (shape.layers * shape.layer + embedding * (1 if shape.tied else 2)) / load.devices
    tokens = max(load.batched_tokens, load.longest)
    working = size * tokens * (4 * shape.hidden + 3 * shape.intermediate / load.devices)
    working += _LOGITS * 4 * load.sequences * shape.vocabulary
    cache, asleep = load.cache_gib * GIB, 0.0
    if load.device == "cuda":
        asleep = _CONTEXT + (0.0 if load.eager else _GRAPHS)
        working += asleep
        cache = load.fraction * load.device_gib * GIB - weights - working
    block = _BLOCK[load.device]
    blocks = max(0, int(cache / (block * cache_bytes_per_token(shape, load.dtype, load.devices))))
    parts = {"weights": weights, "working": working, "cache": cache}
    return EngineMemory(parts, blocks * block, blocks // -(-load.longest // block), asleep)
