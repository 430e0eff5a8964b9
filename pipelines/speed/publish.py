"""How long generation stands still while new weights are loaded: the tiny model, two engines, requests in flight."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from pipelines.speed.timing import ROUNDS


def publish() -> dict[str, Any]:
    """The longest pause of the two engines, median over the updates."""
    from actors.messages import Prompt, Sampling
    from actors.weights.send import write_update
    from pipelines.config.compose import load_config
    from pipelines.data.tiny_model import build_tiny_model
    from pipelines.job.session import Session
    from pipelines.runs.folder import RunDirectory

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        build_tiny_model(model, [f"write mail {index} <answer>" for index in range(200)], seed=0)
        prompts = [
            Prompt(f"{index}/chosen_first", str(index), "chosen_first", "A", "bench", tuple(range(3, 33)))
            for index in range(16)
        ]
        config = load_config(
            [f"output_root={folder}", "run=bench", "tracking=off", "rollout.workers=2", "cluster.rollout_cpus=0.5"]
        )
        with RunDirectory(folder, "bench") as run, Session(config, run) as session:
            from safetensors.torch import load_file

            fleet = session.rollouts(str(model))
            weights = load_file(model / "model.safetensors")

            async def pauses() -> list[float]:
                async def generate() -> None:
                    async for _ in fleet.generate(prompts, Sampling(samples=4, max_tokens=500)):
                        pass

                seen = []
                for number in range(1, ROUNDS + 2):
                    flying = asyncio.create_task(generate())
                    await asyncio.sleep(0.3)
                    update = write_update(weights.items(), number, str(session.weights_directory))
                    seen.append(await asyncio.to_thread(fleet.update_weights, update))
                    await flying
                return seen[1:]

            return {"publish_pause_ms": statistics.median(asyncio.run(pauses())) * 1000}
