"""Supervised steps of the learner group against a bare FSDP2 loop on the same micro-batches, and against TRL's SFT."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.learner.planning import plan
from pipelines.speed.models import random_prompt, write_random_model
from pipelines.speed.rl_step import trl
from pipelines.speed.timing import ROUNDS, last_json

VOCABULARY, SEQUENCES, RANKS, BUDGET = 512, 64, 2, 4096


def learner() -> dict[str, Any]:
    """64 sequences of 64 prompt tokens and log-normal completions (median 110, at most 448); 2 ranks of one thread."""
    rows = supervised_rows()
    tokens = sum(len(prompt) + len(completion) for prompt, completion in rows)
    with tempfile.TemporaryDirectory() as folder:
        model, file = Path(folder) / "model", Path(folder) / "rows.json"
        write_random_model(model, VOCABULARY)
        # The bare loop gets the same padded micro-batches; TRL, which pads as it likes, is compared with packed rows.
        ours = _learner_group(model, folder, rows, f"learner.micro_batch_tokens={BUDGET}")
        packed = _learner_group(model, folder, rows, "learner.packing=true", "learner.micro_batch_tokens=16384")
        bare = _bare(model)
        file.write_text(json.dumps(rows * (ROUNDS + 1)))
        theirs = {
            f"trl_sft_threads_{threads}_micro_{micro}": trl(
                "sft",
                model,
                ["--threads", str(threads), "--micro-batch", str(micro), "--sequences", str(file)],
            )[0]
            for threads in (1, 2)
            for micro in (8, 16)
        }
    return {
        "learner_efficiency": bare / ours,
        "learner_vs_trl_sft": min(theirs.values()) / packed,
        "learner_tokens_per_second": tokens / ours,
        "learner_packed_tokens_per_second": tokens / packed,
        "bare_fsdp2_tokens_per_second": tokens / bare,
    } | {f"{name}_tokens_per_second": tokens / seconds for name, seconds in theirs.items()}


def supervised_rows() -> list[tuple[list[int], list[int]]]:
    """Prompts and completions, by tokens."""
    rng = random.Random(0)
    lengths = [min(448, max(8, int(rng.lognormvariate(4.7, 0.6)))) for _ in range(SEQUENCES)]
    return [
        (random_prompt(index, VOCABULARY), random_prompt(-1 - index, VOCABULARY, length))
        for index, length in enumerate(lengths)
    ]


def _learner_group(model: Path, folder: str, rows: list[tuple[list[int], list[int]]], *settings: str) -> float:
    """Median seconds of a step through the Ray actors."""
    import numpy as np

    from actors.messages import TrainingSequence
    from pipelines.config.compose import load_config
    from pipelines.job.session import Session
    from pipelines.job.settings import optimizer_settings
    from pipelines.runs.folder import RunDirectory

    sequences = [TrainingSequence(np.array(prompt, np.int32), np.array(text, np.int32)) for prompt, text in rows]
    optimizer = ("distill.optimizer.name=adamw", "distill.optimizer.learning_rate=0")
    config = load_config(
        [f"output_root={folder}", "run=bench", "tracking=off", f"learner.ranks={RANKS}", *optimizer, *settings]
    )
    with RunDirectory(folder, "bench") as run, Session(config, run) as session:
        group = session.learners()
        group.load(str(model), None, optimizer_settings(config.distill.optimizer, 100), config.cluster.start_timeout)
        times = []
        for _ in range(ROUNDS + 2):
            started = time.perf_counter()
            group.supervised_step(sequences)
            times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def _bare(model: Path) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    done = subprocess.run(
        [*command, "-m", "pipelines.speed.learner", str(model)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the bare FSDP2 loop failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return statistics.median(last_json(done.stdout)["seconds"][2:])


def bare_fsdp2(model: str) -> None:
    """What one would write by hand: Transformers, ``fully_shard``, the loss Transformers computes, fused AdamW."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (RANKS,))
    lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for module in [*lm.model.layers, lm]:
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=0.0, fused=True)
    rows = supervised_rows()
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    total = sum(len(completion) for _, completion in rows)
    batches = []
    for micro in plan(lengths, RANKS, BUDGET)[dist.get_rank()]:
        width = max(lengths[index] for index in micro)
        ids, labels = torch.zeros(len(micro), width, dtype=torch.int64), torch.full((len(micro), width), -100)
        for row, index in enumerate(micro):
            prompt, completion = rows[index]
            ids[row, : lengths[index]] = torch.tensor(prompt + completion)
            labels[row, len(prompt) : lengths[index]] = torch.tensor(completion)
        batches.append((ids, labels))
    seconds = []
    for _ in range(ROUNDS + 2):
        started = time.perf_counter()
        for number, (ids, labels) in enumerate(batches):
            lm.set_requires_gradient_sync(number == len(batches) - 1)
            # FSDP2 averages gradients over ranks, so the sum over all tokens is divided by the share of a rank.
            lm(input_ids=ids, labels=labels, num_items_in_batch=total / RANKS).loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - started)
    if dist.get_rank() == 0:
        print(json.dumps({"seconds": seconds}))
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    bare_fsdp2(parser.parse_args().model)
