"""Judge held-out pairs in both orders with the engines, and sum up: accuracy, consistency, flips, parse failures.

Where ``evaluate.benchmarks`` names any, those are judged instead, each from its own file or the hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from actors.messages import GenerationFailure, Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.config import Config
from pipelines.evaluation.benchmark_run import judge_benchmarks
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.job.session import Session
from pipelines.loop.rollouts import EvaluationFailed
from pipelines.runs.command_line import main
from pipelines.stages.inputs import JudgingTask, heldout_task
from pipelines.stages.stage import open_stage, standalone


async def judge(
    fleet: RolloutFleet, task: JudgingTask, config: Config, progress: Callable[[int], None] | None = None
) -> list[JudgedComparison]:
    """One greedy judgment of every prompt of ``task``, in the task's order.

    Raises:
        EvaluationFailed: a generation failed; figures over the rest would not be comparable.

    """
    sampling = Sampling(1, config.evaluate.temperature, 1.0, config.model.max_response_tokens, logprobs=False)
    prompts = task.prompts(range(len(task.items)))
    judged: dict[str, JudgedComparison] = {}
    failures: list[GenerationFailure] = []
    by_uid = {prompt.uid: prompt for prompt in prompts}
    async for finished in fleet.generate(prompts, sampling):
        for item in finished:
            if isinstance(item, GenerationFailure):
                failures.append(item)
                continue
            prompt = by_uid[item.prompt_uid]
            truncated = item.finish_reason == "length"
            judged[prompt.uid] = JudgedComparison(
                pair_id=prompt.pair_id,
                order=prompt.order,
                label=prompt.label,
                domain=prompt.domain,
                verdict=read_verdict(item.text, cast(VerdictMode, config.algorithm.verdict_mode), truncated=truncated),
                tokens=len(item.token_ids),
                finish_reason=item.finish_reason,
                text=item.text,
                extras=task.extras(prompt.pair_id, item.text),
            )
        if progress is not None:
            progress(len(judged))
    if failures:
        first = failures[0]
        raise EvaluationFailed(
            f"{len(failures)} of {len(prompts)} judgments failed; first: prompt {first.prompt_uid}: "
            f"{first.cause}: {first.detail}"
        )
    return [judged[prompt.uid] for prompt in prompts]


def evaluate(config: Config, session: Session) -> None:
    """The stage: judge the held-out pairs with one model, by default the last one the run has."""
    model, name = session.run.model_to_judge(config)
    with open_stage(config, session.run, "evaluate", resumable=False) as stage:
        task = heldout_task(config, session.run, model)
        stage.console.note(f"{model}: {task.describe()}")
        fleet, _ = session.rollouts(model)
        with stage.progress(len(task.items) * task.prompts_per_item) as progress:
            judged = asyncio.run(judge(fleet, task, config, lambda done: progress.update(done)))
        stage.finish(name, judged, task)


def command(config: Config) -> None:
    """The stage as a command, or an evaluation on benchmarks."""
    if config.evaluate.benchmarks:
        judge_benchmarks(config)
    else:
        standalone(evaluate)(config)


if __name__ == "__main__":
    main(command)
