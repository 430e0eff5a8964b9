"""A few GRPO steps of TRL on a tiny policy, rewarded by a judge that is served.

    make demo                                   # a judge, and a policy of random weights to begin from
    .venv/bin/pip install trl==1.16.0
    make serve                                  # in another terminal
    .venv/bin/python -m launch.adapters.trl_example

Prints the mean reward of each step. Responses are compared, so the mean of a group is about a half whatever it learns:
what moves the policy is the difference within groups, `reward_std`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from actors.redaction import read_key
from launch.adapters.trl import PairwiseReward
from pipelines.data.schema import plain_messages, read_pairs
from pipelines.judgment.judge import Judge
from pipelines.runs.command_line import clear_errors

GENERATIONS = 4


def main() -> None:
    """Train, and print what TRL logs of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", default="http://127.0.0.1:8000", help="address; its key is in JUDGE_API_KEY")
    parser.add_argument("--run", type=Path, default=Path("outputs/tiny"), help="folder of the demo's run")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    with clear_errors(), Judge(arguments.judge, key=read_key("JUDGE_API_KEY")) as judge:
        for step in train(judge, arguments.run, arguments.steps):
            shown = {name: round(value, 4) for name, value in step.items() if isinstance(value, int | float)}
            names = ("step", "reward", "reward_std", "grad_norm", "judge/comparisons", "judge/unjudged")
            print(" ".join(f"{name}={shown[name]}" for name in names if name in shown))


def train(judge: Judge, run: Path, steps: int) -> list[dict[str, Any]]:
    """TRL's log of every step: groups of four short completions to questions of the built-in family."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    policy = run / "model"
    # AutoTokenizer would put Qwen2's own splitting rules in the place of the model's.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(policy)
    questions = [
        {"prompt": plain_messages(pair.prompt)} for pair in read_pairs(run / "data" / "rl.parquet")[: 8 * steps]
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(policy),
            reward_funcs=PairwiseReward(judge, size=GENERATIONS),
            args=GRPOConfig(
                output_dir=folder,
                num_generations=GENERATIONS,
                per_device_train_batch_size=8 * GENERATIONS,
                max_completion_length=8,
                max_steps=steps,
                learning_rate=1e-3,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(questions),
            processing_class=tokenizer,
        )
        # It would print all it logs, between our lines.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return [step for step in trainer.state.log_history if "reward" in step]


if __name__ == "__main__":
    main()
