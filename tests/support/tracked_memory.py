"""What a learner rank holds at its peak, by torch's own tracker: no GPU, no weights, no other ranks.

    python tests/support/tracked_memory.py CASES   # a JSON list of cases in, one of GiB by kind out

The project's judge, its FSDP calls and its policy step run on fake tensors, with a fake process group. A process of its
own, because such a group would be the default one of every test after it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

from actors.learner import head
from actors.learner.batching import collate
from actors.learner.choices import LOGITS_BYTES
from actors.learner.model import Judge, shard_judge, synchronise_gradients
from actors.learner.objectives import kl_divergence, policy_loss, token_weights
from actors.learner.settings import PolicySettings
from actors.messages import TrainingSequence

# Whether rows are packed is read from the values of their positions, which fake ones lack: these are not.
masking_utils.find_packed_sequence_indices = lambda positions: None

ROWS, MICRO_BATCHES = 2, 2
POLICY = PolicySettings(
    loss="clip",
    ratio="token",
    aggregation="token_mean",
    fixed_length=1,
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=0.0,
    kl_coefficient=1e-3,
    kl_estimator="k3",
    entropy_coefficient=0.0,
    correction="none",
    correction_level="token",
    correction_floor=0.5,
    correction_limit=2.0,
    old_logprobs="learner",
    temperature=1.0,
)


def micro_batch(tokens: int) -> list[TrainingSequence]:
    """Rows that fill a micro-batch, one third of each a prompt."""
    prompt, completion = tokens // ROWS // 3, tokens // ROWS - tokens // ROWS // 3
    return [
        TrainingSequence(
            prompt_ids=np.zeros(prompt, np.int32),
            completion_ids=np.zeros(completion, np.int32),
            rollout_logprobs=np.zeros(completion, np.float32),
            advantage=1.0,
        )
        for _ in range(ROWS)
    ]


def backward(judge: Judge, sequences: list[TrainingSequence]) -> None:
    """Forward and backward of the policy loss with a KL, as a policy step does them."""
    # Real tensors, which count for nothing here: some of their sizes follow from their data, which fake ones lack.
    with unset_fake_temporarily():
        batch = collate(sequences)
        weights = token_weights(batch.counts, POLICY.aggregation, POLICY.fixed_length)
    logprobs, _ = judge(batch, POLICY.temperature)
    old, reference = logprobs.detach(), torch.zeros_like(logprobs)
    policy = policy_loss(logprobs, old, batch.advantages, batch.counts, POLICY)
    kl = kl_divergence(logprobs, reference, POLICY.kl_estimator)
    (weights * (policy.losses + POLICY.kl_coefficient * kl)).sum().backward()


def tracked(case: dict[str, Any]) -> dict[str, float]:
    """GiB at the peak of two micro-batches, in all and by torch's kinds: parameters, gradients and activations, without
    optimiser and reference.
    """
    # The head as it is on the case's device: fake tensors of a CPU have the products that real ones lack.
    head.LOGITS_BYTES = {"cpu": LOGITS_BYTES[case["device"]]}
    head._operand = torch.Tensor.float if case["device"] == "cpu" else lambda matrix: matrix
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case["ranks"])
    try:
        mesh = init_device_mesh("cpu", (case["ranks"],))
        config = AutoConfig.for_model(**case["shape"])
        with FakeTensorMode(allow_non_fake_inputs=True):
            judge = shard_judge(
                AutoModelForCausalLM.from_config(
                    config, dtype=getattr(torch, case["dtype"]), attn_implementation="sdpa"
                ),
                mesh,
                dtype=case["dtype"],
                activation_checkpointing=case["checkpointing"],
                reshard_after_forward=case["reshard"],
                trainable=True,
                offload=False,
                lora=None,
                seed=0,
            )
            tracker = FSDPMemTracker(judge)
            tracker.track_inputs(())
            with tracker:
                for index in range(MICRO_BATCHES):
                    tracker.reset_mod_stats()
                    if not case["reshard"]:
                        synchronise_gradients(judge, index == MICRO_BATCHES - 1)
                    backward(judge, micro_batch(case["tokens"]))
            (found,) = tracker.get_tracker_snapshot("peak").values()
        return {str(kind).rpartition(".")[2].lower(): size / 2**30 for kind, size in found.items()}
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps([tracked(case) for case in json.loads(sys.argv[1])]))
