"""Measures of speed, each a ratio to a bare alternative taken in the same run; writes bench/results.json and a table.

    make bench              # all measures
    make bench ONLY=planner # one

Ratios of medians of seven rounds, taken in turn, so that a machine that slows down slows both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROUNDS = 7


def median_seconds(action: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median wall-clock seconds of ``rounds`` calls, after one that is not counted."""
    action()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def planner() -> dict[str, float]:
    """Cutting 4,096 log-normal lengths (mean about 1,850, cap 16,384) into padded micro-batches for 8 ranks."""
    from actors.learner.planning import plan

    rng = random.Random(0)
    lengths = [min(16384, max(16, int(rng.lognormvariate(7.2, 0.8)))) for _ in range(4096)]
    parts = plan(lengths, 8, 16384)
    padded = sum(len(micro) * max(lengths[index] for index in micro) for rank in parts for micro in rank if micro)
    loads = [sum(lengths[index] for micro in rank for index in micro) for rank in parts]
    return {
        "planner_ms": median_seconds(lambda: plan(lengths, 8, 16384)) * 1000,
        "planner_padding": padded / sum(lengths) - 1,
        "planner_imbalance": max(loads) / (sum(loads) / len(loads)) - 1,
    }


def rollout() -> dict[str, float]:
    """Tokens a second through Ray actor and fleet over those of the same engine called without Ray, and the pause of a
    weight update. Prompts and sampling are the same; the engine is the tiny model's, one thread.
    """
    from actors.learner.publish import write_update
    from actors.messages import Prompt, Sampling, Trace
    from actors.rollout.engine import Engine, EngineSettings
    from pipelines.cli import load_config
    from pipelines.data.tiny_model import build_tiny_model
    from pipelines.run_directory import RunDirectory
    from pipelines.session import Session

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        build_tiny_model(model, [f"write mail {index} <answer>" for index in range(200)], seed=0)
        rng = random.Random(0)
        prompts = [
            Prompt(
                f"{index}/chosen_first",
                str(index),
                "chosen_first",
                "A",
                "bench",
                tuple(rng.choices(range(3, 200), k=30)),
            )
            for index in range(32)
        ]
        sampling = Sampling(samples=8, max_tokens=64)

        async def speed(source: Any) -> float:
            started, tokens = time.perf_counter(), 0
            async for finished in source.generate(prompts, sampling):
                tokens += sum(len(item.token_ids) for item in finished if isinstance(item, Trace))
            return tokens / (time.perf_counter() - started)

        async def bare() -> float:
            engine = Engine(EngineSettings(model=str(model), max_model_len=576, max_sequences=256))
            await engine.start(0)
            try:
                await speed(engine)
                return statistics.median([await speed(engine) for _ in range(ROUNDS)])
            finally:
                engine.shutdown()

        def through_actors() -> tuple[float, float]:
            config = load_config([f"output_root={folder}", "run=bench", "tracking=off"])
            with RunDirectory(folder, "bench") as run, Session(config, run) as session:
                fleet, _ = session.rollouts(str(model))

                async def rounds() -> float:
                    await speed(fleet)
                    return statistics.median([await speed(fleet) for _ in range(ROUNDS)])

                tokens = asyncio.run(rounds())
                from safetensors.torch import load_file

                weights = load_file(model / "model.safetensors")
                pauses = [
                    fleet.update_weights(write_update(weights.items(), number, str(session.weights_directory)))
                    for number in range(1, ROUNDS + 1)
                ]
                return tokens, statistics.median(pauses)

        actors, pause = through_actors()
        alone = asyncio.run(bare())
    return {
        "rollout_tokens_per_second": actors,
        "engine_tokens_per_second": alone,
        "rollout_efficiency": actors / alone,
        "publish_pause_ms": pause * 1000,
    }


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
            return len(waiting) / median_seconds(lambda: engine.generate(prompts, parameters, use_tqdm=False))

        judgments, alone = evaluation(), bare()
    return {
        "judgments_per_second": judgments,
        "generate_per_second": alone,
        "judging_efficiency": judgments / alone,
    }


MEASURES: dict[str, Callable[[], dict[str, float]]] = {"planner": planner, "rollout": rollout, "judging": judging}


def main() -> None:
    """Run the measures that were asked for and add them to what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(MEASURES), help="run one measure")
    parser.add_argument("--output", type=Path, default=Path("bench"), help="folder of results.json and results.md")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in [arguments.only] if arguments.only else MEASURES:
        results |= MEASURES[name]()
    results["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    results["versions"] = {name: version(name) for name in ("torch", "ray", "transformers")}
    path.write_text(json.dumps(results, indent=2) + "\n")
    rows = [f"| `{name}` | {value:.4g} |" for name, value in results.items() if isinstance(value, float)]
    table = "\n".join(["| measure | value |", "|---|---|", *rows]) + "\n"
    (arguments.output / "results.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
