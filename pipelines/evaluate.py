"""Judge held-out pairs in both orders with the engines, and sum up: accuracy, consistency, flips, parse failures.

Where ``evaluate.benchmarks`` names any, those are judged instead, each from its own file or the hub.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pipelines.config import Config
from pipelines.evaluation.benchmark_run import judge_benchmarks
from pipelines.evaluation.endpoint_judge import is_endpoint
from pipelines.evaluation.heldout import judge
from pipelines.job.session import Session
from pipelines.runs.command_line import main
from pipelines.stages.inputs import heldout_task
from pipelines.stages.stage import open_stage, standalone


def evaluate(config: Config, session: Session) -> None:
    """The stage: judge the held-out pairs with one model, by default the last one the run has."""
    model, name = session.run.model_to_judge(config)
    with open_stage(config, session.run, "evaluate", resumable=False) as stage:
        task = heldout_task(config, session.run, model)
        stage.console.note(f"{model}: {task.describe()}")
        fleet = session.rollouts(model)
        with stage.progress(len(task.items) * task.prompts_per_item) as progress:
            judged = asyncio.run(judge(fleet, task, config, lambda done: progress.update(done)))
        stage.finish(name, judged, task)


def command(config: Config) -> None:
    """The stage as a command, or an evaluation on benchmarks; through an endpoint, held-out pairs are one of these."""
    if is_endpoint(config.evaluate.model) and not config.evaluate.benchmarks:
        config = replace(config, evaluate=replace(config.evaluate, benchmarks=["builtin"]))
    if config.evaluate.benchmarks:
        judge_benchmarks(config)
    else:
        standalone(evaluate)(config)


if __name__ == "__main__":
    main(command)
