"""Judge held-out pairs with running engines: one greedy judgment of every pair in each of its orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from actors.messages import GenerationFailure, Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.config import Config
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.loop.rollouts import EvaluationFailed
from pipelines.stages.inputs import JudgingTask


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
