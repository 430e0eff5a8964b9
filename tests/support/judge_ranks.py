"""A small judge and learner ranks without Ray: what tests of the learner share.

Run as a script it is one rank of several: it reads which from its arguments, meets the others, plays the scenario and
saves what it saw.
"""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_settings import small_learner, small_lora, small_optimizer, small_policy

from actors.learner.actor import Learner
from actors.learner.planning import pack_prompts, plan
from actors.learner.settings import PolicySettings
from actors.messages import TrainingSequence

VOCABULARY = 61
BUDGET = 64
"""Padded tokens per micro-batch: small enough that every step has several, and a rank of two an empty one."""
POLICY = small_policy(clip_low=0.2, clip_high=0.2, kl_coefficient=0.1, temperature=0.9)
OPTIMIZERS = {
    "adamw": small_optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.1, total_steps=10, warmup_steps=2),
    "muon": small_optimizer(name="muon", learning_rate=1e-3, muon_learning_rate=0.01, total_steps=10),
}
LORA = small_lora(rank=3, alpha=6)


def build_model(directory: Path, seed: int = 0, tied: bool = True, **changes: Any) -> str:
    """A Qwen2 of two layers with a word-level tokenizer; some of its matrices do not divide by two."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 37,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1", unk_token="w2").save_pretrained(
        directory
    )
    return str(directory)


def sequences(count: int, seed: int, old: bool = False) -> list[TrainingSequence]:
    """Sequences of 5 to 20 tokens with advantages of both signs; ``old`` adds log-probabilities to clip against."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt, completion = int(generator.integers(2, 9)), int(generator.integers(3, 13))
        made.append(
            TrainingSequence(
                generator.integers(0, VOCABULARY, prompt).astype(np.int32),
                generator.integers(0, VOCABULARY, completion).astype(np.int32),
                advantage=float(generator.normal()),
                rollout_logprobs=np.full(completion, -4.0, np.float32),
                old_logprobs=generator.normal(-4.5, 1.0, completion).astype(np.float32) if old else None,
            )
        )
    return made


def groups(prompts: int, samples: int, seed: int, old: bool = False) -> list[TrainingSequence]:
    """As :func:`sequences`, ``samples`` for each prompt, and one that shares its prompt with none."""
    made = sequences(prompts * samples + 1, seed, old)
    return [
        dataclasses.replace(item, prompt_ids=made[min(index // samples * samples, len(made) - 1)].prompt_ids)
        for index, item in enumerate(made)
    ]


def cut(
    items: list[TrainingSequence], rank: int, ranks: int, budget: int = BUDGET, packed: bool = False
) -> tuple[Any, int]:
    """What the driver sends one rank: its micro-batches, and the tokens of all ranks."""
    if packed:
        planned = pack_prompts(items, ranks, budget)
    else:
        planned = plan([len(item.prompt_ids) + len(item.completion_ids) for item in items], ranks, budget)
    return [[items[index] for index in micro] for micro in planned[rank]], sum(
        len(item.completion_ids) for item in items
    )


def policy(
    learner: Learner,
    items: list[TrainingSequence],
    settings: PolicySettings,
    ranks: int = 1,
    budget: int = BUDGET,
    packed: bool = False,
    portions: tuple[int, ...] = (),
) -> dict[str, float]:
    """This rank's part of a policy step on ``items``; the gradients of so many of the first are added beforehand."""
    begin = 0
    for size in portions:
        learner.add_policy_gradients(cut(items[begin : begin + size], learner.rank, ranks, budget, packed)[0], settings)
        begin += size
    micro = cut(items[begin:], learner.rank, ranks, budget, packed)[0] if items[begin:] else [[]]
    return learner.policy_step(micro, settings, sum(len(item.completion_ids) for item in items), len(items))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """The whole model; all ranks take part."""
    from actors.learner.model import full_state

    return {name: tensor.clone() for name, tensor in full_state(learner._trainer.judge)}


def scenario(learner: Learner, ranks: int, model: str, folder: Path, budget: int = BUDGET) -> dict[str, Any]:
    """Supervised and policy steps with each optimiser; the same on any number of ranks, or it is a defect."""
    seen: dict[str, Any] = {}
    for name, optimizer in OPTIMIZERS.items():
        learner.load(model, model, optimizer)
        steps = [learner.supervised_step(*cut(sequences(9, step), learner.rank, ranks, budget)) for step in range(3)]
        steps.append(policy(learner, sequences(9, 7, old=True), POLICY, ranks, budget))
        seen[name] = {"metrics": steps, "weights": weights(learner)}
    learner.export(str(folder / f"exported-{ranks}"))
    seen["update"] = learner.publish(5, str(folder / f"published-{ranks}"), "float32")
    # Written while the next step is taken.
    learner.save(str(folder / f"step-{ranks:06d}"), {"step": 4}, in_background=True)
    before = weights(learner)
    after_save = learner.supervised_step(*cut(sequences(9, 11), learner.rank, ranks, budget))
    seen["state"] = learner.restore(str(folder / f"step-{ranks:06d}"))
    seen["restored"] = all(torch.equal(before[name], tensor) for name, tensor in weights(learner).items())
    again = learner.supervised_step(*cut(sequences(9, 11), learner.rank, ranks, budget))
    seen["replayed"] = after_save == again
    return seen | {
        "reduced_once": reduced_once(learner, ranks, model),
        "poisoned": poisoned(learner, ranks, model),
        "packed": on_groups(learner, ranks, model, packed=True),
        "adapted": adapted(learner, ranks, model),
        "away": on_groups(learner, ranks, model, packed=True, away=True),
        "in_portions": on_groups(learner, ranks, model, packed=True, portions=(5, 1, 4)),
        "in_portions_reduced_once": on_groups(
            learner, ranks, model, packed=True, portions=(5, 8), reshard_after_forward=False
        ),
    }


def adapted(learner: Learner, ranks: int, model: str, packing: bool = False, **settings: Any) -> dict[str, Any]:
    """Supervised and policy steps that train adapters, on groups of traces."""
    return on_groups(learner, ranks, model, packed=packing, lora=LORA, **settings)


def on_groups(
    learner: Learner,
    ranks: int,
    model: str,
    packed: bool,
    budget: int = BUDGET,
    portions: tuple[int, ...] = (),
    away: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Supervised and policy steps on groups of traces of the same prompts, in packed or in padded rows; with ``away``
    the ranks leave their devices after each, as they do where engines have them in between."""
    other = copy.copy(learner)
    other._settings = small_learner(packing=packed, **settings)
    other.load(model, model, OPTIMIZERS["adamw"])
    items = groups(3, 4, seed=5, old=True)
    steps: list[dict[str, float]] = []
    for step in (
        lambda: other.supervised_step(*cut(items, other.rank, ranks, budget, packed)),
        lambda: policy(other, items, POLICY, ranks, budget, packed, portions),
        lambda: other.supervised_step(*cut(sequences(9, 3), other.rank, ranks, budget, packed)),
    ):
        steps.append(step())
        if away:
            other._trainer.leave_device()
            other._trainer.take_device()
    return {"metrics": steps, "weights": weights(other)}


def reduced_once(learner: Learner, ranks: int, model: str) -> dict[str, Any]:
    """Eight supervised steps and a policy step that reduce gradients once each; in some, one rank of two ends empty."""
    other = copy.copy(learner)
    other._settings = small_learner(reshard_after_forward=False)
    seen = {}
    for name, optimizer in OPTIMIZERS.items():
        other.load(model, model, optimizer)
        steps = [other.supervised_step(*cut(sequences(9, step), other.rank, ranks)) for step in range(8)]
        steps.append(policy(other, sequences(9, 7, old=True), POLICY, ranks))
        seen[name] = {"metrics": steps, "weights": weights(other)}
    return seen


def poisoned(learner: Learner, ranks: int, model: str) -> dict[str, Any]:
    """A policy step in which one sequence, and so one rank, has a gradient that is not a number; then a sound step."""
    learner.load(model, None, OPTIMIZERS["muon"])
    before = weights(learner)
    items = sequences(4, 12)
    items[0] = dataclasses.replace(items[0], advantage=float("nan"))
    skipped = policy(learner, items, small_policy(kl_coefficient=0.0), ranks)
    unchanged = all(torch.equal(before[name], tensor) for name, tensor in weights(learner).items())
    sound = learner.supervised_step(*cut(sequences(4, 12), learner.rank, ranks))
    return {"skipped": skipped, "unchanged": unchanged, "sound": sound, "weights": weights(learner)}


def play_on_two_ranks(model: str, folder: Path) -> dict[str, Any]:
    """Run the scenario in two processes and return what rank 0 saw."""
    command = [sys.executable, __file__, model, str(folder)]
    root = Path(__file__).parents[2]
    with (
        subprocess.Popen(
            [*command, "0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=root
        ) as first,
        subprocess.Popen([*command, "1"], stdin=subprocess.PIPE, text=True, cwd=root) as second,
    ):
        try:
            assert first.stdout is not None
            line = first.stdout.readline()
            second.communicate(line, timeout=120)
            assert first.wait(120) == 0
            assert second.returncode == 0
        finally:
            first.kill()
            second.kill()
    return torch.load(folder / "seen.pt", weights_only=False)


def _rank(model: str, folder: Path, rank: int) -> None:
    learner = Learner(rank, 2, small_learner(reshard_after_forward=True, timeout=60.0))
    if rank == 0:
        address, port = learner.rendezvous()
        print(address, port, flush=True)
    else:
        address, number = sys.stdin.readline().split()
        port = int(number)
    learner.join(address, port)
    seen = scenario(learner, 2, model, folder)
    if rank == 0:
        torch.save(seen, folder / "seen.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
