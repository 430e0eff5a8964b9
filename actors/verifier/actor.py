"""The reward verifier: a Ray actor that reads traces and scores them, one by one and then as groups."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from actors.liveness import Beat
from actors.logs import redirect_output
from actors.messages import Prompt, RewardFailure, ScoredGroup, ScoredTrace, Shown, VerificationRequest
from actors.processes import Processes, of_this_actor
from actors.verifier.function_process import FunctionError
from actors.verifier.functions import FunctionPool, RewardFunction
from actors.verifier.judged import Judged
from actors.verifier.rewards import (
    RewardError,
    RewardRule,
    check_weights,
    failed,
    score,
    weighed,
    with_columns,
    with_group_components,
)
from actors.verifier.trace import read_verdict

log = logging.getLogger(__name__)


class RewardVerifier:
    """Scores traces by one rule, fixed when it starts. Made a Ray actor by the session, which knows the resources.

    Traces are scored as they come. Components that compare traces are added when all of a pair are there.
    """

    def __init__(
        self,
        rule: RewardRule | None = None,
        functions: Mapping[str, RewardFunction] | None = None,
        log_path: str | None = None,
    ) -> None:
        """Check the rule before any trace is generated for it.

        Args:
            rule: what is rewarded; None is the paper's, the verdict alone.
            functions: the user's own components, by the name that weights use.
            log_path: file for this process's output; None leaves the output where it is.

        Raises:
            RewardError: weights that cannot be used.
            ValueError: an unknown mode.

        """
        self._rule = rule or RewardRule()
        self._functions = dict(functions or {})
        check_weights(self._rule.weights, self._functions)
        read_verdict("", self._rule.mode)
        # Last, so that a refused rule leaves the output of a caller without Ray where it was.
        if log_path is not None:
            redirect_output(log_path)
        self._pools = {name: FunctionPool(function) for name, function in self._functions.items()}
        self._scored = 0
        self._calls = 0
        """Under way."""

    async def ready(self) -> bool:
        """Answers once the actor is up and every function can be called.

        Raises:
            RewardError: naming a function that cannot be loaded, and why.

        """
        for name, pool in self._pools.items():
            try:
                await pool.check()
            except FunctionError as error:
                raise RewardError(
                    f"reward function {name!r}: {error}. Its path must be package.module.function, importable from the "
                    "directory of the command or from PYTHONPATH"
                ) from error
        return True

    async def score(self, requests: Sequence[VerificationRequest]) -> list[ScoredTrace | RewardFailure]:
        """Score each trace by itself; the order is kept, and a trace whose reward cannot be computed is a failure.

        Raises:
            RewardError: a label that is neither A nor B.

        """
        with self._at_work():
            answers = await asyncio.gather(*(self._score(request) for request in requests))
        scored = [item for item in answers if isinstance(item, ScoredTrace)]
        causes = Counter(item.verdict.cause for item in scored if item.verdict.cause is not None)
        if causes:
            counted = ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items()))
            log.info("%d of %d traces without a verdict: %s", causes.total(), len(scored), counted)
        return list(answers)

    async def _score(self, request: VerificationRequest) -> ScoredTrace | RewardFailure:
        scored = score(request.trace, request.label, self._rule, request.judged, request.responses)
        for name in self._named("trace"):
            judged = _judged(scored, request, request.shown)
            try:
                [value] = await self._pools[name].call([judged])
            except FunctionError as error:
                log.warning("reward function %s: %s: %s", name, error.cause, error)
                self._scored += 1
                return RewardFailure(request.trace.prompt_uid, request.trace.sample, name, error.cause, str(error))
            scored = weighed(scored, {name: value}, self._rule)
        self._scored += 1
        return scored

    async def compare(
        self, groups: Sequence[ScoredGroup], shown: Sequence[Shown | None] | None = None
    ) -> list[ScoredGroup]:
        """All groups of one pair, each trace scored by itself, with the components added that compare traces.

        Args:
            groups: the prompt's group, or those of both orders.
            shown: what each group's prompt shows, for the user's functions.

        """
        texts = shown or [None] * len(groups)
        complete = with_group_components(groups, self._rule)
        with self._at_work():
            return list(await asyncio.gather(*(self._compare(*item) for item in zip(complete, texts, strict=True))))

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def beat(self) -> Beat:
        """How many traces it has scored, and what it is at."""
        return Beat(self._scored, "score" if self._calls else "")

    async def processes(self) -> Processes:
        """The actor's own process and those of users' functions."""
        return of_this_actor()

    async def _compare(self, group: ScoredGroup, shown: Shown | None) -> ScoredGroup:
        for name in self._named("group"):
            if not group.traces:
                break
            judged = [_judged(item, group.prompt, shown) for item in group.traces]
            try:
                values = await self._pools[name].call(judged)
            except FunctionError as error:
                log.warning("reward function %s: %s: %s", name, error.cause, error)
                return failed(group, name, error.cause, str(error))
            finally:
                self._scored += 1
            group = with_columns(group, {name: values}, self._rule)
        return group

    def _named(self, sees: str) -> list[str]:
        return [name for name, function in self._functions.items() if function.sees == sees]

    async def close(self) -> None:
        """End the functions' processes."""
        for pool in self._pools.values():
            await pool.close()


def _judged(scored: ScoredTrace, prompt: Prompt | VerificationRequest, shown: Shown | None) -> Judged:
    shown = shown or Shown("", "", "")
    trace = scored.trace
    return Judged(
        text=trace.text,
        verdict=scored.verdict.side,
        label=prompt.label,
        question=shown.question,
        response_a=shown.response_a,
        response_b=shown.response_b,
        tokens=len(trace.token_ids),
        truncated=trace.finish_reason == "length",
        prompt_uid=trace.prompt_uid,
        pair_id=prompt.pair_id,
        order=prompt.order,
        domain=prompt.domain,
        sample=trace.sample,
        mode=prompt.judged,
        rating=scored.verdict.rating,
    )
