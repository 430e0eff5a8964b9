"""Held-out figures of a stage in the modes besides pairwise, where it trains any."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, cast

from actors.messages import Prompt, Sampling, Verdict
from actors.rollout.fleet import RolloutFleet
from actors.verifier.trace import VerdictMode, read_verdict
from pipelines.config import Config
from pipelines.config.data import Modes
from pipelines.data.modes import trained_modes
from pipelines.evaluation.traces import traces_of
from pipelines.stages.inputs import JudgingTask, heldout_task
from pipelines.stages.stage import Stage

Judged = Iterable[tuple[Prompt, Verdict]]


def rating_figures(judged: Judged) -> dict[str, float]:
    """Of ratings of both responses of each pair, as fractions of 1.

    ``accuracy``: pairs whose better response is rated higher; a rating that could not be read makes it wrong.
    ``ties``: pairs of equal ratings. ``parse_rate``: ratings that could be read.
    """
    ratings: dict[str, dict[str, int | None]] = {}
    for prompt, verdict in judged:
        ratings.setdefault(prompt.pair_id, {})[prompt.label] = verdict.rating
    read = [(pair["A"], pair["B"]) for pair in ratings.values() if None not in pair.values()]
    known = sum(rating is not None for pair in ratings.values() for rating in pair.values())
    return {
        "n": len(ratings),
        "accuracy": sum(cast(int, better) > cast(int, worse) for better, worse in read) / len(ratings),
        "ties": sum(better == worse for better, worse in read) / len(ratings),
        "parse_rate": known / (2 * len(ratings)),
    }


def list_figures(judged: Judged) -> dict[str, float]:
    """Of lists in two rotations of each pair, as fractions of 1.

    ``accuracy``: lists that put the better response first, unreadable ones wrong; ``consistent_accuracy``: pairs for
    which both do. ``parse_rate``: orders that could be read.
    """
    right: dict[str, list[bool]] = {}
    read = 0
    for prompt, verdict in judged:
        right.setdefault(prompt.pair_id, []).append(verdict.side == prompt.label)
        read += verdict.cause is None
    lists = sum(map(len, right.values()))
    return {
        "n": len(right),
        "accuracy": sum(map(sum, right.values())) / lists,
        "consistent_accuracy": sum(map(all, right.values())) / len(right),
        "parse_rate": read / lists,
    }


_FIGURES = {"pointwise": rating_figures, "listwise": list_figures}


def record_modes(stage: Stage, name: str, fleet: RolloutFleet, model: str) -> None:
    """Judge the held-out pairs once more in each other mode that is trained; figures go to ``<name>_modes``.

    Raises:
        EvaluationFailed: a generation failed.

    """
    config = stage.config
    found: dict[str, Mapping[str, Any]] = {}
    for mode in trained_modes(config.data.modes):
        if mode == "pairwise":
            continue
        alone = Modes(**{**dict.fromkeys(asdict(config.data.modes), 0.0), mode: 1.0})
        task = heldout_task(config, stage.run, model, alone)
        found[mode] = _FIGURES[mode](asyncio.run(_judged(fleet, task, config)))
        stage.console.note(f"held out, {mode}: accuracy {found[mode]['accuracy']:.3f} ({found[mode]['n']} pairs)")
    if found:
        stage.run.update_summary({f"{name}_modes": found})


async def _judged(fleet: RolloutFleet, task: JudgingTask, config: Config) -> list[tuple[Prompt, Verdict]]:
    prompts = {prompt.uid: prompt for prompt in task.prompts(range(len(task.items)))}
    sampling = Sampling(1, config.evaluate.temperature, 1.0, config.model.max_response_tokens, logprobs=False)
    mode, judged = cast(VerdictMode, config.algorithm.verdict_mode), []
    async for traces in traces_of(fleet, list(prompts.values()), sampling):
        for trace in traces:
            prompt = prompts[trace.prompt_uid]
            cut = trace.finish_reason == "length"
            read = read_verdict(trace.text, mode, truncated=cut, judged=prompt.judged, responses=prompt.responses)
            judged.append((prompt, read))
    return judged
