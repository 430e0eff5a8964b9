"""Judging through the evaluation's own path against vLLM's ``generate`` over the same prompts."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.bench.timing import ROUNDS, median_seconds


def judging() -> dict[str, float]:
    """Judgments a second of an evaluation (actors, verdicts, log on disk) over those of vLLM's own ``generate`` on the
    same prompts with the same limits, and without the log-probabilities that an evaluation keeps.
    """
    from actors.messages import Sampling
    from pipelines.benchmarks.benchmark import find
    from pipelines.cli import load_config
    from pipelines.data.prompts import load_template
    from pipelines.data.sets import load_tokenizer
    from pipelines.data.tiny_model import build_tiny_model
    from pipelines.data.tiny_tasks import generate_items, teacher_chain
    from pipelines.judging.judge import judge, plan
    from pipelines.judging.log import JudgmentLog
    from pipelines.run_directory import RunDirectory
    from pipelines.session import Session

    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        chains = [teacher_chain(pair, "A", pair.id) for pair in generate_items(0, {"bench": 300})["bench"]]
        build_tiny_model(Path(model), chains, seed=0)
        tokenizer, builtin = load_tokenizer(model), find("builtin")
        comparisons = builtin.load(None)[:256]
        waiting = plan(
            builtin, "builtin", comparisons, load_template("tiny"), tokenizer, orders="both", votes=1, seed=0
        )
        sampling, facts = Sampling(1, 0.0, 1.0, 64), {"model": model, "weights": "", "engine": {}}

        def evaluated(fleet: Any, number: int) -> float:
            with JudgmentLog(Path(folder) / f"{number}.jsonl") as log:
                started = time.perf_counter()
                asyncio.run(judge(fleet, waiting, sampling, "paper", tokenizer, facts, log))
                return len(waiting) / (time.perf_counter() - started)

        def evaluation() -> float:
            config = load_config([f"output_root={folder}", "run=bench", "tracking=off"])
            with RunDirectory(folder, "bench") as run, Session(config, run) as session:
                fleet, _ = session.rollouts(model)
                return statistics.median([evaluated(fleet, number) for number in range(ROUNDS + 1)][1:])

        def bare() -> float:
            from vllm import LLM, SamplingParams

            os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            engine = LLM(model, dtype="float32", max_model_len=576, max_num_seqs=256, enforce_eager=True)
            prompts: Any = [{"prompt_token_ids": list(judgment.token_ids)} for judgment in waiting]
            parameters = SamplingParams(temperature=0.0, max_tokens=64)
            try:
                return len(waiting) / median_seconds(lambda: engine.generate(prompts, parameters, use_tqdm=False))
            finally:
                # Or this process waits for the engine's at its end.
                engine.llm_engine.engine_core.shutdown()

        judgments, alone = evaluation(), bare()
    return {
        "judgments_per_second": judgments,
        "generate_per_second": alone,
        "judging_efficiency": judgments / alone,
    }
