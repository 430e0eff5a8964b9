"""Judge held-out pairs with running engines: one greedy judgment of every pair in each of its orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from actors.messages import Sampling
from actors.rollout.fleet import RolloutFleet
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.config import Config
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.evaluation.traces import traces_of
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
    mode = cast(VerdictMode, config.algorithm.verdict_mode)
    by_uid = {prompt.uid: prompt for prompt in prompts}
    judged: dict[str, JudgedComparison] = {}
    async for traces in traces_of(fleet, prompts, sampling):
        for trace in traces:
            prompt = by_uid[trace.prompt_uid]
            judged[prompt.uid] = JudgedComparison(
                pair_id=prompt.pair_id,
                order=prompt.order,
                label=prompt.label,
                domain=prompt.domain,
                verdict=read_verdict(trace.text, mode, truncated=trace.finish_reason == "length"),
                tokens=len(trace.token_ids),
                finish_reason=trace.finish_reason,
                text=trace.text,
                extras=task.extras(prompt.pair_id, trace.text),
            )
        if progress is not None:
            progress(len(judged))
    return [judged[prompt.uid] for prompt in prompts]
