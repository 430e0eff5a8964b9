"""Every request answered once: bounded concurrency, rate limits, repeated attempts, the budget and the journal."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from actors.redaction import redact
from pipelines.endpoints.answers import Completion, whole
from pipelines.endpoints.failures import Failure, TeacherError, classify, wait_before
from pipelines.endpoints.journal import Journal
from pipelines.endpoints.limits import Budget, RateLimit
from pipelines.endpoints.requests import TOKENS_PER_BYTE, Answer, Request, cost_of, estimated_tokens
from pipelines.endpoints.teachers import NamedTeacher, TeacherClient


@dataclass(slots=True)
class Asked:
    """How requests ended, by key. One in neither mapping was not sent, because the budget was spent."""

    answers: dict[str, Answer] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)
    """Attempts that failed and were followed by another, by cause."""
    out_of_budget: bool = False


class Dispatcher:
    """Asks one teacher. Belongs to one event loop; ``clock`` and ``sleep`` are the event loop's unless a test's."""

    def __init__(
        self,
        client: TeacherClient,
        teacher: NamedTeacher,
        journal: Journal,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._settings = settings = teacher.settings
        self._teacher = teacher
        self._journal = journal
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._limit = RateLimit(settings.requests_per_minute, settings.tokens_per_minute, clock)
        self._jitter = random.Random()
        self._failed_in_a_row = 0
        self._given_back = asyncio.Condition()
        # Until answers have shown their usual length, and how many tokens the endpoint makes of a prompt.
        self._mean_completion = settings.max_tokens / 4
        self._most_per_byte = TOKENS_PER_BYTE

    async def ask(self, requests: Sequence[Request], received: Callable[[Answer | Failure], None]) -> Asked:
        """Answers to requests that the journal does not have; ``received`` is called with each as it ends.

        Raises:
            TeacherError: the teacher cannot go on, or too many requests failed in a row.
            OSError: the journal cannot be written.

        """
        asked = Asked()
        waiting = iter(requests)
        workers = [
            asyncio.create_task(self._work(waiting, asked, received))
            for _ in range(min(self._settings.concurrency, len(requests)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return asked

    async def _work(
        self, waiting: Iterator[Request], asked: Asked, received: Callable[[Answer | Failure], None]
    ) -> None:
        for request in waiting:
            prompt = estimated_tokens(request.size, self._most_per_byte)
            tokens = prompt + self._settings.max_tokens
            cost = cost_of(self._settings, prompt, self._settings.max_tokens)
            if not await self._admitted(tokens, cost):
                asked.out_of_budget = True
                return
            try:
                outcome = await self._answer(request, asked.repeated)
            finally:
                await self._give_back(tokens, cost)
            if isinstance(outcome, Answer):
                asked.answers[request.key] = outcome
                self._failed_in_a_row = 0
            else:
                asked.failures[request.key] = outcome
                self._count_failure(outcome)
            received(outcome)

    async def _admitted(self, tokens: int, cost: float) -> bool:
        """Wait until the budget has room beside what is in flight; False when it never will."""
        async with self._given_back:
            while not self._budget.admits(tokens, cost):
                if not self._budget.busy:
                    return False
                await self._given_back.wait()
            self._budget.hold(tokens, cost)
            return True

    async def _give_back(self, tokens: int, cost: float) -> None:
        async with self._given_back:
            self._budget.release(tokens, cost)
            self._given_back.notify_all()

    async def _answer(self, request: Request, repeated: Counter[str]) -> Answer | Failure:
        """One request to its end: an answer, kept in the journal, or what the last attempt failed with."""
        for attempt in range(1, self._settings.attempts + 1):
            expected = estimated_tokens(request.size) + round(self._mean_completion)
            await self._turn(expected)
            started = self._clock()
            try:
                completion = await self._client.attempt(request)
                return self._finished(request, completion, self._clock() - started, attempt, expected)
            except Exception as error:
                failure = classify(error)
                if failure is None:
                    raise
            if failure.kind == "fatal":
                raise TeacherError(f"{self._describe()}: {failure.cause}: {failure.detail}{self._remedy(failure)}")
            if failure.kind == "refused" or attempt == self._settings.attempts:
                return failure
            await self._wait_for_next(attempt, failure)
            repeated[failure.cause] += 1
        raise AssertionError("at least one attempt is made")

    async def _turn(self, tokens: int) -> None:
        """Wait for this request's moment; when a pause has overtaken it, for another one."""
        await self._sleep(self._limit.reserve(tokens))
        while self._limit.paused:
            await self._sleep(self._limit.reserve(tokens))

    async def _wait_for_next(self, attempt: int, failure: Failure) -> None:
        asked_for = failure.retry_after
        if asked_for is not None:
            if asked_for > self._settings.longest_wait:
                raise TeacherError(
                    f"{self._describe()} asks to wait {asked_for:,.0f} s ({failure.detail}): run the same command "
                    f"again then, or allow it with {self._teacher.setting('longest_wait')}"
                )
            self._limit.pause(asked_for)
        await self._sleep(wait_before(attempt + 1, self._settings.backoff, asked_for, self._jitter))

    def _finished(
        self, request: Request, completion: Completion, seconds: float, attempts: int, expected: int
    ) -> Answer:
        """What came, as an answer in the journal. What is no answer was paid for too.

        Raises:
            AttemptFailed: it is none.

        """
        prompt, generated = completion.prompt_tokens, completion.completion_tokens
        estimated = prompt is None or generated is None
        prompt = estimated_tokens(request.size) if prompt is None else prompt
        generated = estimated_tokens(len(completion.text.encode(errors="replace"))) if generated is None else generated
        cost = cost_of(self._settings, prompt, generated)
        self._limit.settle(expected, prompt + generated)
        self._budget.spend(prompt + generated, cost)
        self._most_per_byte = max(self._most_per_byte, prompt / max(1, request.size))
        completion = whole(completion)
        answer = Answer(
            key=request.key,
            prompt_uid=request.prompt_uid,
            round=request.round,
            sample=request.sample,
            text=completion.text,
            finish_reason=completion.finish_reason,
            model=completion.model,
            prompt_tokens=prompt,
            completion_tokens=generated,
            estimated=estimated,
            cost=cost,
            seconds=round(seconds, 3),
            attempts=attempts,
        )
        self._journal.append(answer)
        self._mean_completion += (generated - self._mean_completion) / 20
        return answer

    def _count_failure(self, failure: Failure) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.give_up_after:
            raise TeacherError(
                f"{self._describe()}: {self._failed_in_a_row} requests in a row failed, the last with "
                f"{failure.cause}: {failure.detail}{self._remedy(failure)}. What was answered is kept: run the same "
                "command again to continue"
            )

    def _describe(self) -> str:
        where = "" if self._settings.kind == "local" else f" at {self._settings.base_url or 'OpenAI'}"
        return redact(f"{self._teacher.name} ({self._settings.model}{where})")

    def _remedy(self, failure: Failure) -> str:
        if failure.cause == "key refused":
            return f". The key is read from the environment variable {self._settings.key_variable}"
        if failure.cause == "no such model or address":
            return f". Check {self._teacher.setting('model')} and {self._teacher.setting('base_url')}"
        if failure.kind == "refused" and self._settings.stream and "stream" in failure.detail:
            setting = self._teacher.setting("stream")
            return f". An endpoint that cannot stream is asked for whole answers with {setting}=false"
        return ""
