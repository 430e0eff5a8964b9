"""Judging through the evaluation's own path against vLLM's ``generate`` over the same prompts, in turn."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import Any

from pipelines.speed.bare_engine import bare_engine
from pipelines.speed.timing import medians_in_turn


def judging() -> dict[str, float]:
    """Judgments per second of an evaluation (actors, verdicts, log on disk) over those of vLLM's own ``generate`` on
    the same prompts with the same limits: both without log-probabilities (`evaluate.verdict_logprobs=false`), and both
    with those that an evaluation keeps by default.
    """
    from actors.messages import Sampling
    from pipelines.benchmarks.benchmark import find
    from pipelines.config.compose import load_config
    from pipelines.data.prompts import load_template
    from pipelines.data.tiny_model import build_tiny_model
    from pipelines.data.tiny_tasks import generate_items, teacher_chain
    from pipelines.data.tokenizer import load_tokenizer
    from pipelines.evaluation.judging import judge, plan
    from pipelines.evaluation.log import JudgmentLog
    from pipelines.job.session import Session
    from pipelines.runs.folder import RunDirectory

    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        chains = [teacher_chain(pair, "A", pair.id) for pair in generate_items(0, {"bench": 300})["bench"]]
        build_tiny_model(Path(model), chains, seed=0)
        tokenizer, builtin = load_tokenizer(model), find("builtin")
        comparisons = builtin.load(None)[:256]
        waiting = plan(
            builtin, "builtin", comparisons, load_template("tiny"), tokenizer, orders="both", votes=1, seed=0
        )
        facts = {"model": model, "weights": "", "engine": {}}
        config = load_config([f"output_root={folder}", "run=bench", "tracking=off"])
        with (
            RunDirectory(folder, "bench") as run,
            Session(config, run) as session,
            bare_engine(model, config.model.max_prompt_tokens + config.model.max_response_tokens) as engine,
        ):
            from vllm import SamplingParams

            fleet = session.rollouts(model)
            numbers = itertools.count()
            prompts: Any = [{"prompt_token_ids": list(judgment.token_ids)} for judgment in waiting]

            def evaluate(logprobs: bool) -> None:
                sampling = Sampling(temperature=0.0, max_tokens=64, logprobs=logprobs)
                with JudgmentLog(Path(folder) / f"{next(numbers)}.jsonl") as log:
                    asyncio.run(judge(fleet, waiting, sampling, "paper", tokenizer, facts, log))

            def generate(logprobs: int | None) -> None:
                parameters = SamplingParams(temperature=0.0, max_tokens=64, logprobs=logprobs)
                engine.generate(prompts, parameters, use_tqdm=False)

            plain, bare_plain, full, bare_full = medians_in_turn(
                lambda: evaluate(logprobs=False),
                lambda: generate(None),
                lambda: evaluate(logprobs=True),
                lambda: generate(0),
            )
    return {
        "judgments_per_second": len(waiting) / plain,
        "generate_per_second": len(waiting) / bare_plain,
        "judgments_with_logprobs_per_second": len(waiting) / full,
        "generate_with_logprobs_per_second": len(waiting) / bare_full,
        "judging_efficiency": bare_plain / plain,
        "judging_efficiency_with_logprobs": bare_full / full,
    }
