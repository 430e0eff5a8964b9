"""Judging through an OpenAI-compatible endpoint: the judgments that engines would write, asked for as chains are.

Limits, repeated attempts, the budget and the journal are those of :mod:`pipelines.endpoints`. What an endpoint
answered is in ``journal.jsonl`` before it is read, so an interrupted evaluation never pays twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.messages import JudgeMode
from actors.redaction import redact
from actors.verifier.trace import VerdictMode
from pipelines.config import Config
from pipelines.data.prompts import PromptTemplate
from pipelines.endpoints.dispatch import Asked, Dispatcher
from pipelines.endpoints.endpoint import Endpoint
from pipelines.endpoints.failures import Failure
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.limits import Budget
from pipelines.endpoints.requests import FIRST_PASS, Answer, Request, build_request
from pipelines.endpoints.teachers import NamedTeacher
from pipelines.evaluation.judging import Judgment, not_judged, read
from pipelines.evaluation.log import JudgmentLog
from pipelines.loop.rollouts import EvaluationFailed

PREFIX = "openai:"
REFUSED = "refused"
"""Cause of a judgment that the endpoint will not give: the model declines, or the request is too long for it."""

Progress = Callable[[int, dict[str, float]], None]


def is_endpoint(model: str | None) -> bool:
    """Whether ``evaluate.model`` names a model behind an endpoint: ``openai:NAME``."""
    return model is not None and model.startswith(PREFIX)


def endpoint_of(config: Config) -> NamedTeacher:
    """The endpoint that ``evaluate.model`` and ``evaluate.base_url`` name, asked for what the evaluation wants."""
    evaluate = config.evaluate
    settings = replace(
        evaluate.endpoint,
        kind="endpoint",
        model=str(evaluate.model).removeprefix(PREFIX),
        base_url=evaluate.base_url,
        temperature=None if evaluate.endpoint.temperature is None else evaluate.temperature,
        max_tokens=config.model.max_response_tokens,
    )
    elsewhere = {name: f"evaluate.{name}" for name in ("model", "base_url", "max_tokens", "temperature")}
    return NamedTeacher("evaluate.endpoint", settings, elsewhere)


def endpoint_facts(config: Config, endpoint: NamedTeacher) -> dict[str, Any]:
    """The settings that a judgment depends on, as each row of the log states them; no engine of ours takes part."""
    settings = endpoint.settings
    return {
        "vllm": None,
        "dtype": None,
        "device": None,
        "endpoint": redact(settings.base_url or "OpenAI"),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "seed": config.seed,
        "verdict_mode": config.algorithm.verdict_mode,
        "prompt": config.model.prompt,
    }


def judge_by_endpoint(
    config: Config,
    endpoint: NamedTeacher,
    waiting: Sequence[Judgment],
    templates: Mapping[JudgeMode, PromptTemplate],
    mode: VerdictMode,
    facts: Mapping[str, Any],
    log: JudgmentLog,
    journal: Journal,
    progress: Progress,
) -> Asked:
    """Judge what is waiting and log each judgment as it arrives. Requests that were repeated are in the result.

    A judgment that the endpoint refuses while it gives others is logged as unread.

    Raises:
        TeacherError: the endpoint cannot go on; what it answered is kept.
        EvaluationFailed: requests failed or the budget is spent; the same command tries again.

    """
    requests = {
        judgment.key: build_request(
            endpoint.settings,
            judgment.messages(templates),
            "/".join(judgment.key[:3]),
            FIRST_PASS,
            judgment.vote,
            config.seed,
        )
        for judgment in waiting
    }
    by_key = {requests[judgment.key].key: judgment for judgment in waiting}
    budget = Budget(config.evaluate.budget_tokens, config.evaluate.budget_cost, journal.tokens, journal.cost)
    right = sum(row["verdict"] == row["label"] for row in log.rows.values())

    def received(outcome: Answer | Failure) -> None:
        nonlocal right
        if isinstance(outcome, Answer):
            row = _row(by_key[outcome.key], outcome, mode, facts)
            log.append([row])
            right += row["verdict"] == row["label"]
            done = len(log.rows)
            progress(done, {"accuracy": right / done, "cost": budget.spent_cost})

    found = journal.find(requests.values())
    for answer in found.values():
        received(answer)
    missing = [request for request in requests.values() if request.key not in found]
    asked = asyncio.run(_ask(endpoint, missing, journal, budget, received)) if missing else Asked()
    _end(asked, budget, by_key, log, facts, len(found))
    return asked


async def _ask(
    endpoint: NamedTeacher,
    requests: Sequence[Request],
    journal: Journal,
    budget: Budget,
    received: Callable[[Answer | Failure], None],
) -> Asked:
    async with Endpoint(endpoint) as client:
        return await Dispatcher(client, endpoint, journal, budget, time.monotonic).ask(requests, received)


def _end(
    asked: Asked,
    budget: Budget,
    by_key: Mapping[str, Judgment],
    log: JudgmentLog,
    facts: Mapping[str, Any],
    found: int,
) -> None:
    """Log what was refused, if anything was answered; complain of what may still be judged."""
    if asked.answers or found:
        refused = [key for key, failure in asked.failures.items() if failure.kind == "refused"]
        log.append([not_judged(by_key[key], facts, REFUSED) | {"cost": 0.0} for key in refused])
    left = [judgment for judgment in by_key.values() if judgment.key not in log.rows]
    if not left:
        return
    failed = list(asked.failures.values())
    why = f"{failed[0].cause}: {failed[0].detail}" if failed else ""
    if asked.out_of_budget:
        why = f"the budget is spent ({budget.describe()}): raise evaluate.budget_tokens or evaluate.budget_cost"
    raise EvaluationFailed(
        f"{len(left):,} of {len(by_key):,} judgments are missing ({why}); run the same command again: what is answered "
        "is not asked for again"
    )


def _row(judgment: Judgment, answer: Answer, mode: VerdictMode, facts: Mapping[str, Any]) -> dict[str, Any]:
    row = judgment.row(
        facts,
        **read(judgment, answer.text, mode, truncated=answer.finish_reason == "length"),
        tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        verdict_logprob=None,
        cost=answer.cost,
    )
    return row | {"prompt_tokens": answer.prompt_tokens}
