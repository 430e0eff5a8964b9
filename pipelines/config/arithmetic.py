"""Which number types a machine's processor computes in of its own."""

from __future__ import annotations

import functools

from pipelines.config.parts import Learner, Rollout


def cpu_dtype(wanted: str) -> str:
    """``wanted`` where this machine's processor computes in it, otherwise float32.

    In YAML: ``${cpu_dtype:bfloat16}``. For the recipe of a model that is trained on laptops, of which many have AVX2
    and no more.
    """
    return wanted if computes_in(wanted) else "float32"


def slow_dtype(key: str, part: Rollout | Learner) -> str | None:
    """What to say of a part that runs on this machine's processor in a type that this one does not compute in."""
    if computes_in(part.dtype):
        return None
    return (
        f"{key}={part.dtype}: this machine's processor has no instructions for it, so that each matrix product takes "
        f"many times as long as in float32: set {key}=float32"
    )


@functools.cache
def computes_in(dtype: str) -> bool:
    """Whether torch's matrix products in ``dtype`` use instructions of this processor.

    Others are worked out one by one: with AVX2 alone, bfloat16 was seen to take a hundred times as long as float32.
    """
    import torch

    known = {
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype not in known or bool(known[dtype]())
