"""Run a learner's steps on several gloo ranks in processes of their own; what the multi-rank tests share."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.learner.planning import plan
from actors.learner.settings import LearnerSettings, OptimizerSettings, PolicySettings
from actors.messages import TrainingSequence


def tiny_checkpoint(directory: Path) -> str:
    """A random Qwen2 of 2 layers with a vocabulary of 50, tied embeddings, saved in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({f"t{index}": index for index in range(50)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t1", pad_token="t0").save_pretrained(directory)
    return str(directory)


def sequences(count: int, seed: int = 0) -> list[TrainingSequence]:
    """Random sequences of uneven lengths with advantages and engine log-probabilities."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        length = int(rng.integers(1, 9))
        made.append(
            TrainingSequence(
                rng.integers(2, 50, int(rng.integers(2, 12))).astype(np.int32),
                rng.integers(2, 50, length).astype(np.int32),
                float(rng.normal()),
                rng.normal(-3, 0.5, length).astype(np.float32),
                rng.normal(-3, 0.5, length).astype(np.float32),
            )
        )
    return made


def train(
    ranks: int,
    folder: Path,
    *,
    batches: Sequence[Sequence[TrainingSequence]],
    optimizer: OptimizerSettings,
    token_budget: int = 64,
    policy: PolicySettings | None = None,
    checkpointing: bool = False,
    export: str | None = None,
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Metrics of every step and the parameters at the end, after training ``folder/model`` on ``ranks`` ranks."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    rendezvous = folder / f"rendezvous-{len(list(folder.glob('rendezvous-*')))}"
    work = (folder, batches, optimizer, token_budget, policy, checkpointing, export)
    processes = [
        context.Process(target=_rank, args=(rank, ranks, str(rendezvous), queue, *work)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        metrics, state = queue.get(timeout=120)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * ranks
    return metrics, state


def _rank(
    rank: int, ranks: int, rendezvous: str, queue: Any, folder: Path, batches: Any, optimizer: Any, *rest: Any
) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from actors.learner.actor import Learner
    from actors.learner.model import full_state

    token_budget, policy, checkpointing, export = rest
    torch.set_num_threads(1)
    learner = Learner(rank, ranks, LearnerSettings(activation_checkpointing=checkpointing))
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    learner._mesh = init_device_mesh("cpu", (ranks,))
    model = str(folder / "model")
    learner.load(model, model if policy is not None and policy.kl_coefficient else None, optimizer)
    metrics = []
    for batch in batches:
        lengths = [len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in batch]
        micro = [[batch[index] for index in indices] for indices in plan(lengths, ranks, token_budget)[rank]]
        tokens = sum(len(sequence.completion_ids) for sequence in batch)
        if policy is None:
            metrics.append(learner.supervised_step(micro, tokens))
        else:
            metrics.append(learner.policy_step(micro, policy, tokens))
    if export is not None:
        learner.export(export)
    state = {name: tensor.numpy() for name, tensor in full_state(learner._trainer.judge)}
    if rank == 0:
        queue.put((metrics, state))
    dist.barrier()
    dist.destroy_process_group()
