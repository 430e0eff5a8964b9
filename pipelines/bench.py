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

from pipelines.bench_data import data

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


MEASURES: dict[str, Callable[[], dict[str, float]]] = {"planner": planner, "rollout": rollout, "data": data}


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
