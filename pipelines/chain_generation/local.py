"""A teacher on the Ray cluster: the rollout workers that write traces everywhere else, asked one request at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import TracebackType
from typing import Self

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from pipelines.config import Config
from pipelines.data.prompts import encode
from pipelines.data.tokenizer import load_tokenizer
from pipelines.endpoints.answers import Completion
from pipelines.endpoints.failures import AttemptFailed
from pipelines.endpoints.requests import Request
from pipelines.endpoints.teachers import NamedTeacher
from pipelines.job.session import Session
from pipelines.runs.folder import RunDirectory


class LocalTeacher:
    """Engines on a checkpoint, from entering to leaving. Belongs to one event loop."""

    def __init__(self, teacher: NamedTeacher, config: Config, run: RunDirectory) -> None:
        """Raises ModelError where the model has no tokenizer, or too short a context."""
        settings = teacher.settings
        assert settings.model is not None, "a teacher without a model is refused before"
        self._model = settings.model
        self._settings = settings
        # The second pass shows an attempt beside the prompt, hence twice the answer. No learner takes part.
        longest = config.model.max_prompt_tokens + settings.max_tokens
        self._tokenizer = load_tokenizer(
            settings.model, longest + settings.max_tokens, "model.max_prompt_tokens + twice the teacher's max_tokens"
        )
        self._session = Session(
            replace(
                config,
                model=replace(config.model, max_prompt_tokens=longest, max_response_tokens=settings.max_tokens),
                learner=replace(config.learner, ranks=0),
            ),
            run,
        )

    async def __aenter__(self) -> Self:
        self._session.__enter__()
        try:
            self._fleet = self._session.rollouts(self._model)
        except BaseException:
            self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    async def attempt(self, request: Request) -> Completion:
        """Ask once.

        Raises:
            TimeoutError: the trace was not there in time.
            AttemptFailed: the engine refused the prompt or failed.
            ActorFailed, DeadlineExceeded: from the workers.

        """
        tokens = tuple(encode([dict(message) for message in request.messages], self._tokenizer))
        # Order and label are of no concern to an engine.
        prompt = Prompt(request.key, request.prompt_uid, "chosen_first", "A", "", tokens)
        settings = self._settings
        sampling = Sampling(
            samples=1,
            temperature=1.0 if settings.temperature is None else settings.temperature,
            top_p=1.0 if settings.top_p is None else settings.top_p,
            max_tokens=settings.max_tokens,
            seed=request.seed if settings.send_seed else None,
            logprobs=False,
        )
        try:
            async with asyncio.timeout(settings.timeout):
                trace = await self._one(prompt, sampling)
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer in {settings.timeout:g} s") from error
        return Completion(trace.text, trace.finish_reason, self._model, len(tokens), len(trace.token_ids))

    async def _one(self, prompt: Prompt, sampling: Sampling) -> Trace:
        async for finished in self._fleet.generate([prompt], sampling):
            for item in finished:
                if isinstance(item, GenerationFailure):
                    too_long = item.cause == "prompt_too_long"
                    cause = item.cause.replace("_", " ")
                    raise AttemptFailed(cause, item.detail, "refused" if too_long else "retry")
                return item
        raise AttemptFailed("engine error", "the worker ended its stream without a trace")
