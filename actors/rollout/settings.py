"""What an engine is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """One vLLM engine. Values come from the configuration, which has the only defaults."""

    model: str
    """Directory or hub name in Hugging Face format."""
    device: str
    """`cpu` or `cuda`."""
    dtype: str
    tensor_parallel: int
    """Processes that share each layer, with a device each."""
    max_model_len: int
    """Tokens of a prompt and its answer together."""
    max_sequences: int
    """Sequences in flight at once."""
    max_batched_tokens: int
    memory_gib: float
    """CPU: size of the key-value cache."""
    memory_fraction: float
    """CUDA: share of the device's memory the engine may take."""
    threads: int
    """CPU: OpenMP threads of the engine."""
    enforce_eager: bool
    takes_turns: bool
    """Learners have the same devices: the engine can sleep."""
    prefix_caching: bool
    seed: int
