"""Learner steps of SmolLM2-135M on one thread, by data type, adapters and packing, by which its recipe was chosen.

Completion tokens per second of processor time, forward and backward, so that other programs of the machine matter
little; one pass each, which takes seconds. A policy row is a group of 8 traces of one prompt; a supervised row is 4
chains of different prompts.
"""

from __future__ import annotations

import time
from typing import Any

PROMPT, COMPLETION, TRACES, CHAINS = 160, 70, 8, 4
"""Tokens of the recipe's prompts and chains; sequences of a micro-batch."""


def smollm2() -> dict[str, Any]:
    """All combinations that this processor computes in; gets the model first where it is not there."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from actors.learner.batching import collate
    from actors.learner.model import load_judge
    from actors.learner.settings import LoraSettings
    from actors.messages import TrainingSequence
    from pipelines.config.arithmetic import computes_in
    from pipelines.data.pretrained_model import FOLDER, fetch
    from pipelines.speed.models import random_prompt

    if not FOLDER.is_dir():
        fetch(FOLDER)

    def sequences(count: int, prompts: int) -> list[TrainingSequence]:
        numbers = [random_prompt(index, 40_000, PROMPT + COMPLETION) for index in range(count)]
        asked = [numbers[index % prompts][:PROMPT] for index in range(count)]
        return [
            TrainingSequence(np.array(prompt, np.int32), np.array(row[PROMPT:], np.int32))
            for prompt, row in zip(asked, numbers, strict=True)
        ]

    rows = {"policy": sequences(TRACES, prompts=1), "supervised": sequences(CHAINS, prompts=CHAINS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    found = {}
    try:
        mesh = init_device_mesh("cpu", (1,))
        # Elsewhere one product in bfloat16 takes seconds; its figures are left out there.
        for dtype in filter(computes_in, ("float32", "bfloat16")):
            for rank in (0, 16):
                for form, attention in (("padded", None), ("packed", "sdpa")):
                    lora = LoraSettings(rank, 2 * rank, ("all-linear",)) if rank else None
                    judge = load_judge(str(FOLDER), mesh, dtype=dtype, attention=attention, lora=lora)
                    for kind, micro_batch in rows.items():
                        started = time.process_time()
                        logprobs, _ = judge(collate(micro_batch, "cpu", attention))
                        (-logprobs.sum()).backward()
                        seconds = time.process_time() - started
                        trained = "lora" if rank else "whole"
                        name = f"smollm2_{kind}_{dtype}_{trained}_{form}_tokens_per_second"
                        found[name] = len(micro_batch) * COMPLETION / seconds
                    del judge
    finally:
        dist.destroy_process_group()
    return found
