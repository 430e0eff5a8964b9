"""How long a recipe takes, from throughputs."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.planning.shape import ModelShape

# Operations per parameter and token: forward; forward and backward; and again forward where activations are recomputed.
_FORWARD, _TRAIN, _RECOMPUTE = 2, 6, 2
# CPU engines: tokens per second that scheduling allows, and operations per second. See docs/plan.md.
_CPU_TOKENS, _CPU_OPERATIONS = 11_000.0, 1.7e11


@dataclass(frozen=True, slots=True)
class StageWork:
    """A stage: its steps, the tokens it learns on, and its time."""

    steps: int
    tokens: float
    seconds: float


def learning_seconds(
    shape: ModelShape, tokens: float, ranks: int, tflops: float, passes: int, recomputes: bool
) -> float:
    """Of tokens that are trained on once, with ``passes`` further forward passes, as of a reference."""
    operations = _TRAIN + _FORWARD * passes + (_RECOMPUTE if recomputes else 0)
    return operations * shape.parameters * tokens / (ranks * tflops * 1e12)


def engine_rate(shape: ModelShape, size: int, devices: int, bandwidth: float, sequences: float, cached: float) -> float:
    """Tokens an engine of GPUs generates per second: each step reads the weights and every sequence's cache once.

    Args:
        shape: of the model.
        size: bytes of a parameter and of an element of the cache.
        devices: that share each layer.
        bandwidth: of a device's memory, in 10^12 bytes per second.
        sequences: in flight.
        cached: mean tokens of a sequence.

    """
    held = 2 * shape.layers * shape.keys * size * cached
    return sequences * devices * bandwidth * 1e12 / (size * shape.parameters + sequences * held)


def cpu_engine_rate(shape: ModelShape) -> float:
    """Tokens an engine of one CPU process generates per second."""
    return 1 / (1 / _CPU_TOKENS + _FORWARD * shape.parameters / _CPU_OPERATIONS)
