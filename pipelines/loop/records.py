"""Traces as rows of a table: what goes to ``traces/*.parquet``, the report and W&B."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.messages import JudgeMode, Order, Prompt, ScoredGroup, ScoredTrace, Shown, Side
from actors.verifier.rewards import is_right
from pipelines.data.modes import shown
from pipelines.data.schema import PreferencePair
from pipelines.evaluation.comparisons import JudgedComparison


def question_text(pair: PreferencePair) -> str:
    """The conversation as one text; a single user turn stands alone, more turns carry their roles."""
    if len(pair.prompt) == 1:
        return pair.prompt[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in pair.prompt)


def _shown(pair: PreferencePair, order: Order, judged: JudgeMode = "pairwise") -> dict[str, str]:
    first, second = shown(pair, order, judged)
    return {"question": question_text(pair), "response_a": first, "response_b": second}


def shown_texts(prompts: Iterable[Prompt], pairs: Mapping[str, PreferencePair]) -> dict[str, Shown]:
    """What each prompt shows, by its uid."""
    return {prompt.uid: Shown(**_shown(pairs[prompt.pair_id], prompt.order, prompt.judged)) for prompt in prompts}


def _side(scored: ScoredTrace, prompt: Prompt) -> Side | None:
    """The verdict; of a rating A where it stands above those of the other response, otherwise B."""
    if prompt.judged != "pointwise" or scored.verdict.cause is not None:
        return scored.verdict.side
    return prompt.label if is_right(scored, prompt) else "B" if prompt.label == "A" else "A"


def trace_rows(
    stage: str, step: int, groups: Iterable[ScoredGroup], pairs: Mapping[str, PreferencePair]
) -> list[dict[str, Any]]:
    """One row per trace of a rollout batch."""
    return [
        {
            "stage": stage,
            "step": step,
            "pair_id": group.prompt.pair_id,
            "order": group.prompt.order,
            "domain": group.prompt.domain,
            **_shown(pairs[group.prompt.pair_id], group.prompt.order, group.prompt.judged),
            "label": group.prompt.label,
            "sample": scored.trace.sample,
            "text": scored.trace.text,
            "verdict": _side(scored, group.prompt),
            "cause": scored.verdict.cause,
            "reward": scored.reward,
            "tokens": len(scored.trace.token_ids),
            "finish_reason": scored.trace.finish_reason,
            "min_version": scored.trace.min_version,
            "max_version": scored.trace.max_version,
        }
        for group in groups
        for scored in group.traces
    ]


def judgment_rows(
    stage: str, step: int, judged: Sequence[JudgedComparison], pairs: Mapping[str, PreferencePair]
) -> list[dict[str, Any]]:
    """One row per held-out judgment; the reward is the paper's, +1 for the right verdict and -1 otherwise."""
    return [
        {
            "stage": stage,
            "step": step,
            "pair_id": item.pair_id,
            "order": item.order,
            "domain": item.domain,
            **_shown(pairs[item.pair_id], item.order),
            "label": item.label,
            "sample": 0,
            "text": item.text,
            "verdict": item.verdict.side,
            "cause": item.verdict.cause,
            "reward": 1.0 if item.verdict.side == item.label else -1.0,
            "tokens": item.tokens,
            "finish_reason": item.finish_reason,
            "min_version": step,
            "max_version": step,
        }
        for item in judged
    ]
