"""The RL step against TRL's ``GRPOTrainer``: same model, prompts and limits, learning rate 0, samples per second.

Ours is the loop of ``pipelines/rl.py`` itself. Lengths as in life: a trace of the random model ends after 128 tokens on
average and at most after 512, so a static batch waits for its longest trace. Forced lengths: 128 tokens each. Each side
is measured at several settings and the ratio is of the best ones; the raw figures have all of them. How near ours comes
to what the machine permits is measured beside it (``bound.py``).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.speed.bound import two_core_seconds
from pipelines.speed.models import random_prompt, write_random_model
from pipelines.speed.timing import ROUNDS, last_json

PROMPTS, SAMPLES = 8, 8
OURS = {
    "on_policy": (),
    "on_policy_one_rank": ("learner.ranks=1", "learner.micro_batch_tokens=1024"),
    "four_behind_one_rank": (
        *("algorithm.max_staleness=4", "algorithm.old_logprobs=rollout", "learner.ranks=1"),
        "rollout.max_sequences=64",
    ),
}
"""Strictly on-policy, as TRL is here: two learner ranks that get both cores when the engine is done, or one that learns
on complete groups, a micro-batch each, beside the engine. And up to four versions behind, with as many traces in flight
as a step has: with more of them each takes longer on a core, and long ones are waited for."""


def rl_step_natural() -> dict[str, Any]:
    """Vocabulary of 128, at most 512 new tokens, end of sequence at random."""
    return _compare("natural", vocabulary=128, max_tokens=512, forced=False, micro_batches=(8,))


def rl_step_forced() -> dict[str, Any]:
    """Vocabulary of 512, exactly 128 new tokens."""
    return _compare("forced", vocabulary=512, max_tokens=128, forced=True, micro_batches=(8, 32))


def _compare(
    name: str, *, vocabulary: int, max_tokens: int, forced: bool, micro_batches: tuple[int, ...]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        peer, own = Path(folder) / "peer", Path(folder) / "own"
        write_random_model(peer, vocabulary)
        write_random_model(own, vocabulary, ends=not forced)
        ours = {key: run_loop(own, vocabulary, max_tokens, Path(folder), settings) for key, settings in OURS.items()}
        settings = {
            f"trl_threads_{threads}_micro_{micro}": [
                *("--threads", str(threads), "--micro-batch", str(micro), "--max-tokens", str(max_tokens)),
                *(("--min-tokens", str(max_tokens)) if forced else ()),
            ]
            for threads in (1, 2)
            for micro in micro_batches
        }
        theirs = {key: trl("grpo", peer, arguments) for key, arguments in settings.items()}
        fastest = min(ours.values(), key=lambda run: run["step_seconds"])
        bound = two_core_seconds(own, vocabulary, max_tokens, fastest["tokens"])
    best = min(seconds for seconds, _ in theirs.values())
    raw = {f"{name}_{key}_step_seconds": seconds for key, (seconds, _) in theirs.items()}
    raw |= {f"{name}_{key}_tokens": tokens for key, (_, tokens) in theirs.items()}
    raw |= {f"{name}_{key}_{part}": value for key, run in ours.items() for part, value in run.items()}
    ratios = {key: best / run["step_seconds"] for key, run in ours.items()}
    raw |= {f"rl_step_vs_trl_{name}_at_{key}": ratio for key, ratio in ratios.items()}
    raw |= {f"{name}_{key}": value for key, value in bound.items()}
    on_policy = max(ratio for key, ratio in ratios.items() if "on_policy" in key)
    return {
        f"rl_step_vs_trl_{name}": max(ratios.values()),
        f"rl_step_vs_trl_{name}_on_policy": on_policy,
        f"rl_step_share_of_bound_{name}": bound["two_core_bound_seconds"] / fastest["step_seconds"],
    } | raw


def trl(trainer: str, model: Path, arguments: list[str]) -> tuple[float, float]:
    """Median seconds and mean tokens of a step of a TRL trainer in a process of its own; the first step not counted.

    Raises:
        RuntimeError: it failed; with the end of what it printed.

    """
    command = [sys.executable, "-m", "pipelines.speed.trl_peer", trainer, "--model", str(model)]
    done = subprocess.run(
        [*command, "--steps", str(ROUNDS + 1), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"TRL's {trainer} trainer failed:\n{(done.stdout + done.stderr)[-3000:]}")
    seen = last_json(done.stdout)
    return statistics.median(seen["seconds"][1:]), statistics.mean(seen["tokens"])


def run_loop(
    model: Path, vocabulary: int, max_tokens: int, folder: Path, overrides: tuple[str, ...] = ()
) -> dict[str, float]:
    """Mean seconds and tokens of a step of our RL loop on ``model``, and the medians of its parts.

    Counted are the steps in the middle. In the first ones engines and learners allocate, and batches that were begun at
    the same time end at the same time; in the last ones no further batch is under way, so learning has all cores.
    """
    from actors.messages import Prompt
    from pipelines.config.compose import load_config
    from pipelines.data.prompts import DroppedPrompts
    from pipelines.data.schema import Message, PreferencePair
    from pipelines.job.session import Session
    from pipelines.job.settings import optimizer_settings
    from pipelines.rl import reinforce, total_steps
    from pipelines.stages.inputs import JudgingTask
    from pipelines.stages.stage import open_run, open_stage

    behind = max((int(item.partition("=")[2]) for item in overrides if "max_staleness" in item), default=0)
    lead, counted_steps = 2 + 2 * behind, 2 * ROUNDS
    steps = lead + counted_steps + behind
    config = load_config(
        [
            *("recipe=tiny", "run=rl-step", f"output_root={folder}", "tracking=off", "overwrite=true"),
            *(f"rl.steps={steps}", f"rl.prompts_per_step={PROMPTS}", f"rl.mini_batch_prompts={PROMPTS}"),
            *(f"rl.policy={model}", "rl.optimizer.learning_rate=0", "rl.evaluate_every=0"),
            *(f"algorithm.samples={SAMPLES}", "algorithm.kl_coefficient=0", "algorithm.equal_reward_groups=keep"),
            *("model.max_prompt_tokens=64", f"model.max_response_tokens={max_tokens}", "data.orders=alternate"),
            *("learner.packing=true", "learner.micro_batch_tokens=4096", "rollout.enforce_eager=false"),
            f"rl.checkpoints.every={10 * steps}",
            *overrides,
        ]
    )
    count = steps * PROMPTS
    pairs = {
        str(index): PreferencePair(str(index), "bench", "bench", (Message("user", "-"),), "one", "two", {})
        for index in range(count)
    }
    items = tuple(
        (
            Prompt(
                f"{index}/chosen_first",
                str(index),
                "chosen_first",
                "A",
                "bench",
                tuple(random_prompt(index, vocabulary)),
            ),
        )
        for index in range(count)
    )
    task = JudgingTask(pairs, items, DroppedPrompts(0, 64))
    with open_run(config) as run, Session(config, run) as session, open_stage(config, run, "rl") as stage:
        session.launch_rollouts(str(model))
        learners = session.learners()
        optimizer = optimizer_settings(config.rl.optimizer, total_steps(config, task))
        learners.load(str(model), None, optimizer, config.cluster.start_timeout)
        asyncio.run(reinforce(config, session, stage, learners, task, task.first(1)))
        lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    lines = [line for line in lines if "time/step" in line["metrics"]]
    window = lines[lead : lead + counted_steps]
    counted = [line["metrics"] for line in window]
    median = {
        part: statistics.median(metrics[f"time/{part}"] for metrics in counted)
        for part in ("generate", "verify", "learn", "publish", "wait")
    }
    # From line to line, so that nothing the loop does is left out.
    median["step"] = (window[-1]["time"] - lines[lead - 1]["time"]) / counted_steps
    tokens = statistics.mean(metrics["completion_tokens"] for metrics in counted) * PROMPTS * SAMPLES
    return {f"{part}_seconds": value for part, value in median.items()} | {"tokens": tokens}
