"""What the routes answer: requests in, plain JSON out, on the judging core."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from pipelines.data.prompts import encode
from pipelines.data.schema import check_unicode
from pipelines.judgment.decision import PAIRWISE, SHOWN
from pipelines.judgment.judging import TOO_LONG, EngineJudge, asked, in_order, without_blocking
from pipelines.judgment.listing import LISTWISE, rank_listwise
from pipelines.judgment.outputs import quoted_passages
from pipelines.judgment.ranking import Group, rank_groups
from pipelines.judgment.rating import POINTWISE, checked_rubric, to_rate
from pipelines.judgment.rewards import reward_groups
from pipelines.judgment.votes import hash_of
from pipelines.serving.limits import Limits, Refused
from pipelines.serving.requests import ChatRequest, CompareRequest, RankRequest, RewardRequest, ScoreRequest
from pipelines.serving.streams import Told, WatchableEngines, WatchedEngines


class Service:
    """One judge. Requests that are answered at the same time share its engines' batches."""

    def __init__(self, judge: EngineJudge, limits: Limits) -> None:
        self.model = judge.model
        self.limits = limits
        self._judge = judge
        self._engines = cast(WatchableEngines, judge.engines)

    async def compare(self, request: CompareRequest, told: Told | None = None) -> dict[str, Any]:
        """A decision; see :class:`pipelines.judgment.decision.Decision`. ``told`` gets its judgments while they grow.
        Where ``marks`` are asked for, they are ``[start, end]`` of each passage of ``a`` and ``b``, in characters.

        Raises:
            DataError: the texts cannot be compared, or the template has no place for a rubric.
            Refused: the prompt is too long, or the engines failed on a vote.

        """
        judge = self._watched(self._asked(request), told)
        if request.rubric is not None:
            rubric = checked_rubric(request.rubric, "request")
            judge = replace(judge, template=judge.template.with_rubric(rubric))
        pair = asked(request.conversation(), request.response_a, request.response_b)
        (decision,) = await in_order(judge.answers(PAIRWISE, [pair]))
        _refuse_failed(decision.failures, request.too_long)
        if not request.marks:
            return decision.as_json()
        return {**decision.as_json(), "marks": quoted_passages(decision, request.response_a, request.response_b)}

    async def score(self, request: ScoreRequest) -> dict[str, Any]:
        """A rating; see :class:`pipelines.judgment.rating.RatingDecision`.

        Raises:
            DataError: the response cannot be rated, or the template has no place for a rubric.
            ModeUnsupported: the judge does not rate.
            Refused: the prompt is too long, or the engines failed on a vote.

        """
        judge = self._asked(request)
        answer = to_rate(request.conversation(), request.response, request.rubric, "request")
        (decision,) = await in_order(judge.answers(POINTWISE, [answer]))
        _refuse_failed(decision.failures, request.too_long)
        return decision.as_json()

    async def unfinished(self) -> int:
        """Traces that the engines write or have waiting.

        Raises:
            DeadlineExceeded, ActorFailed: an engine does not live.

        """
        return await self._engines.unfinished()

    async def rank(self, request: RankRequest) -> dict[str, Any]:
        """A ranking; see :class:`pipelines.judgment.ranking.Ranking`.

        Raises:
            DataError, Refused: as :meth:`compare`.

        """
        judge = self._asked(request)
        self._check_count(request.responses)
        group = Group("request", request.conversation(), tuple(request.responses))
        if request.method == "listwise":
            (ranking,) = await rank_listwise(partial(judge.answers, LISTWISE), [group])
        else:
            (ranking,) = await rank_groups(partial(judge.answers, PAIRWISE), [group], request.method, request.rounds)
        _refuse_failed(ranking.failures, request.too_long)
        return ranking.as_json()

    async def reward(self, request: RewardRequest) -> dict[str, Any]:
        """The rewards of a group; see :class:`pipelines.judgment.rewards.Rewards`.

        Raises:
            DataError: a text cannot be judged.
            Refused: too many responses, or the engines failed on a vote.

        """
        self._check_count(request.responses)
        group = Group("request", request.conversation(), tuple(request.responses))
        (rewards,) = await reward_groups(partial(self._judge.answers, PAIRWISE), [group], request.budget)
        _refuse_failed(rewards.failures, "report")
        return rewards.as_json()

    def _check_count(self, responses: Sequence[str]) -> None:
        if len(responses) > self.limits.responses:
            raise Refused(422, "too_many_responses", f"{len(responses)} responses; at most {self.limits.responses}")

    def chat_header(self) -> dict[str, Any]:
        """What all chunks of a completion have in common, or one whole completion begins with."""
        return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}

    async def chat(self, request: ChatRequest, header: dict[str, Any], told: Told | None = None) -> dict[str, Any]:
        """The model's own completion of a conversation, in OpenAI's form. ``told`` gets its choices while they grow.

        Raises:
            DataError: a text is no valid Unicode, or the model's chat template refuses the conversation.
            Refused: 404 for another model; the prompt is too long, or the engines failed.

        """
        if request.model != self.model:
            raise Refused(404, "model_not_found", f"the model here is {self.model!r}, not {request.model!r}")
        messages = [turn.plain() for turn in request.messages]
        check_unicode({"messages": messages}, "request")
        length = sum(len(message["content"]) for message in messages)
        token_ids = tuple(await without_blocking(length, lambda: encode(messages, self._judge.tokenizer)))
        if len(token_ids) > self._judge.rule.max_prompt_tokens:
            _refuse_failed({TOO_LONG: 1})
        longest = request.max_completion_tokens or request.max_tokens or self._judge.rule.max_tokens
        sampling = Sampling(
            request.n,
            request.temperature,
            request.top_p,
            min(longest, self._judge.rule.max_tokens),
            request.seed,
            logprobs=False,
        )
        prompt = Prompt(hash_of(*token_ids), "chat", "chosen_first", "A", "chat", token_ids)
        finished: list[Trace | GenerationFailure] = []
        async for some in self._watched(self._judge, told).engines.generate([prompt], sampling):
            finished += some
        traces = sorted((item for item in finished if isinstance(item, Trace)), key=lambda trace: trace.sample)
        if len(traces) < request.n:
            _refuse_failed({item.cause: 1 for item in finished if isinstance(item, GenerationFailure)})
        written = sum(len(trace.token_ids) for trace in traces)
        return {
            **header,
            "object": "chat.completion",
            "choices": [
                {
                    "index": trace.sample,
                    "message": {"role": "assistant", "content": trace.text},
                    "finish_reason": trace.finish_reason,
                    "logprobs": None,
                }
                for trace in traces
            ],
            "usage": {
                "prompt_tokens": len(token_ids),
                "completion_tokens": written,
                "total_tokens": len(token_ids) + written,
            },
        }

    def _watched(self, judge: EngineJudge, told: Told | None) -> EngineJudge:
        """The judge with engines that tell what they write, if it is to be told."""
        return judge if told is None else replace(judge, engines=WatchedEngines(self._engines, told))

    def _asked(self, request: CompareRequest | ScoreRequest | RankRequest) -> EngineJudge:
        """The judge under the orders, votes and temperature that a request states."""
        rule = self._judge.rule
        if request.orders is not None:
            rule = replace(rule, orders=tuple(shown for shown in SHOWN if request.orders in ("both", shown)))
        rule = replace(
            rule,
            votes=rule.votes if request.votes is None else request.votes,
            temperature=rule.temperature if request.temperature is None else request.temperature,
        )
        if rule.votes > self.limits.votes:
            raise Refused(422, "too_many_votes", f"{rule.votes} votes; at most {self.limits.votes}")
        if rule.votes > 1 and rule.temperature == 0:
            raise Refused(
                422, "equal_votes", "more than one vote at temperature 0 gives equal votes: set `temperature`"
            )
        return replace(self._judge, rule=rule)


def _refuse_failed(causes: Mapping[str, int], too_long: str = "refuse") -> None:
    """Refuse what was not judged. A judgment that was written and has no verdict is an answer, and stays one."""
    if TOO_LONG in causes and too_long == "refuse":
        raise Refused(422, TOO_LONG, "the prompt leaves no room for a judgment: shorten question or responses")
    if "engine_error" in causes:
        raise Refused(503, "engine_error", "the engine failed on this request: ask again", retry_after=1)
