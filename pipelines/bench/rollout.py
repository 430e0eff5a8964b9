"""Generation through Ray actor and fleet against vLLM's own ``LLM.generate`` on the same prompts and settings."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.bench.models import random_prompt, write_random_model
from pipelines.bench.timing import ROUNDS, last_json

VOCABULARY, PROMPTS, SAMPLES, MAX_TOKENS = 512, 32, 8, 128


def rollout() -> dict[str, Any]:
    """32 prompts of 64 tokens, 8 traces each, exactly 128 new tokens; one engine of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_random_model(model, VOCABULARY, ends=False)
        ours = _through_actors(model, folder)
        bare = _bare(model)
    return {
        "rollout_efficiency": ours / bare,
        "rollout_tokens_per_second": ours,
        "vllm_tokens_per_second": bare,
    }


def _through_actors(model: Path, folder: str) -> float:
    from actors.messages import Prompt, Sampling, Trace
    from pipelines.cli import load_config
    from pipelines.run_directory import RunDirectory
    from pipelines.session import Session

    prompts = [
        Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "bench", tuple(_prompt(index)))
        for index in range(PROMPTS)
    ]
    config = load_config([f"output_root={folder}", "run=bench", "tracking=off", *_LIMITS])
    with RunDirectory(folder, "bench") as run, Session(config, run) as session:
        fleet, _ = session.rollouts(str(model))

        async def speed() -> float:
            started, tokens = time.perf_counter(), 0
            async for finished in fleet.generate(prompts, Sampling(SAMPLES, max_tokens=MAX_TOKENS)):
                tokens += sum(len(item.token_ids) for item in finished if isinstance(item, Trace))
            return tokens / (time.perf_counter() - started)

        async def rounds() -> float:
            await speed()
            return statistics.median([await speed() for _ in range(ROUNDS)])

        return asyncio.run(rounds())


_LIMITS = ("model.max_prompt_tokens=64", f"model.max_response_tokens={MAX_TOKENS}")


def _prompt(index: int) -> list[int]:
    return random_prompt(index, VOCABULARY)


def _bare(model: Path) -> float:
    """In a process of its own, as vLLM's environment is read when it is imported."""
    command = [sys.executable, "-m", "pipelines.bench.rollout", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"vLLM failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return float(last_json(done.stdout)["tokens_per_second"])


def bare_vllm(model: str) -> float:
    """Median tokens a second of ``LLM.generate`` with the engine settings of the tiny recipe."""
    import os

    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(
        model=model,
        dtype="float32",
        max_model_len=64 + MAX_TOKENS,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        enforce_eager=True,
        enable_prefix_caching=True,
        disable_log_stats=True,
        seed=0,
        logprobs_mode="processed_logprobs",
    )
    sampling = SamplingParams(n=SAMPLES, temperature=1.0, max_tokens=MAX_TOKENS, logprobs=0, detokenize=False)
    prompts = [TokensPrompt(prompt_token_ids=_prompt(index)) for index in range(PROMPTS)]
    speeds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        answers = engine.generate(prompts, sampling, use_tqdm=False)
        tokens = sum(len(part.token_ids) for answer in answers for part in answer.outputs)
        speeds.append(tokens / (time.perf_counter() - started))
    return statistics.median(speeds[1:])


if __name__ == "__main__":
    print("\n" + json.dumps({"tokens_per_second": bare_vllm(sys.argv[1])}))
