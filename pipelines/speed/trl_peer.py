"""TRL's trainers on a given model, as a process of its own: prints the seconds of every step as JSON.

    python -m pipelines.speed.trl_peer grpo --model DIR --threads 1 --steps 8 --micro-batch 8 --max-tokens 512
    python -m pipelines.speed.trl_peer sft --model DIR --threads 2 --steps 8 --micro-batch 16

A process of its own, because torch takes its number of threads once, and because a peer must not share our imports.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from typing import Any

from pipelines.speed.models import random_prompt


def main() -> None:
    """Train for some steps and print ``{"seconds": [...], "tokens": [...]}``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", choices=("grpo", "sft"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--min-tokens", type=int, default=0)
    parser.add_argument("--sequences", help="SFT: JSON file of [prompt ids, completion ids]")
    arguments = parser.parse_args()
    if arguments.threads < (os.cpu_count() or 1):
        os.sched_setaffinity(0, set(range(arguments.threads)))
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        steps, tokens = (grpo if arguments.trainer == "grpo" else sft)(arguments, folder)
    print("\n" + json.dumps({"seconds": steps, "tokens": tokens}))


def _timer() -> tuple[Any, list[float]]:
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Timer(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    return Timer(), seconds


def _common(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": arguments.micro_batch,
        "gradient_accumulation_steps": arguments.batch // arguments.micro_batch,
        "learning_rate": 0.0,
        "max_steps": arguments.steps,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


def grpo(arguments: argparse.Namespace, folder: str) -> tuple[list[float], list[int]]:
    """8 traces for each prompt, no KL, a reward that differs within a group."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    # AutoTokenizer would put Qwen2's own splitting rules in the place of the model's.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch_float32())
    count = arguments.steps * arguments.batch // 8
    prompts = [tokenizer.decode(random_prompt(index, len(tokenizer))) for index in range(count)]
    tokens: list[int] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        tokens.append(sum(map(len, completion_ids)))
        return [1.0 if len(ids) % 2 else -1.0 for ids in completion_ids]

    callback, seconds = _timer()
    config = GRPOConfig(
        **_common(arguments, folder),
        num_generations=8,
        max_completion_length=arguments.max_tokens,
        generation_kwargs={"min_new_tokens": arguments.min_tokens} if arguments.min_tokens else None,
        beta=0.0,
        temperature=1.0,
    )
    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[callback],
    ).train()
    return seconds, tokens


def sft(arguments: argparse.Namespace, folder: str) -> tuple[list[float], list[int]]:
    """Supervised fine-tuning on completions of the sequences given, in their order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    with open(arguments.sequences, encoding="utf-8") as file:
        rows = json.load(file)
    data = Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in rows],
            "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in rows],
        }
    )
    callback, seconds = _timer()
    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch_float32()),
        args=SFTConfig(**_common(arguments, folder), max_length=None, completion_only_loss=True),
        train_dataset=data,
        processing_class=PreTrainedTokenizerFast.from_pretrained(arguments.model),
        callbacks=[callback],
    ).train()
    return seconds, [sum(len(p) + len(c) for p, c in rows[: arguments.batch])] * len(seconds)


def torch_float32() -> Any:
    """``torch.float32``, imported when it is needed."""
    import torch

    return torch.float32


if __name__ == "__main__":
    main()
