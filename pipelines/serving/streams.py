"""Answers while they are written, as server-sent events: texts as they grow, then the whole answer, or an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi.responses import StreamingResponse

from actors.messages import Added, GenerationFailure, Prompt, Sampling, Trace
from pipelines.judgment.judging import Engines

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was added to the text of one judgment or completion."""

    prompt: Prompt
    sample: int
    text: str


Told = Callable[[Piece], None]


class WatchableEngines(Engines, Protocol):
    """Engines that can be watched, such as :class:`actors.rollout.fleet.RolloutFleet`."""

    def watch(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """As ``generate``, and what is written of each trace until it is finished."""

    async def unfinished(self) -> int:
        """Traces that are being written or wait to be; raises where an engine does not live."""


@dataclass(frozen=True, slots=True)
class WatchedEngines:
    """Engines that tell of every trace while they write it."""

    engines: WatchableEngines
    told: Told

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """As the engines' own."""
        by_uid = {prompt.uid: prompt for prompt in prompts}
        async with aclosing(self.engines.watch(prompts, sampling)) as stream:  # type: ignore[type-var]
            async for news in stream:
                finished: list[Trace | GenerationFailure] = []
                for item in news:
                    if isinstance(item, Added):
                        self.told(Piece(by_uid[item.prompt_uid], item.sample, item.text))
                    else:
                        finished.append(item)
                if finished:
                    yield finished


class Form(Protocol):
    """How a stream is written."""

    def pieces(self, piece: Piece) -> Iterator[str]:
        """Events of a text that grew."""

    def answer(self, answer: Answer) -> Iterator[str]:
        """Events of the whole answer, which end the stream."""


class Comparison:
    """``text`` events, each with the order, the vote and what was added; then one ``decision``."""

    def pieces(self, piece: Piece) -> Iterator[str]:
        """One event."""
        order = "a_first" if piece.prompt.order == "chosen_first" else "b_first"
        vote = int(piece.prompt.uid.rpartition("/")[2])
        yield event("text", {"order": order, "vote": vote, "text": piece.text})

    def answer(self, answer: Answer) -> Iterator[str]:
        """The decision, as without a stream."""
        yield event("decision", answer)


class Completion:
    """OpenAI's chunks of a chat completion."""

    def __init__(self, common: Answer, with_usage: bool) -> None:
        """``common``: ``id``, ``created`` and ``model`` of all chunks."""
        self._common = {**common, "object": "chat.completion.chunk", "usage": None}
        self._with_usage = with_usage
        self._told: dict[int, str] = {}

    def pieces(self, piece: Piece) -> Iterator[str]:
        """One chunk; the first of a choice names the role."""
        yield self._added(piece.sample, piece.text)

    def answer(self, answer: Answer) -> Iterator[str]:
        """What is left of every choice and why it ended, the tokens where they were asked for, and the end."""
        for choice in answer["choices"]:
            index, whole = choice["index"], choice["message"]["content"]
            told = self._told.get(index, "")
            # Half of a character, say, is not told of before it is clear that no other half comes.
            rest = whole[len(told) :] if whole.startswith(told) else ""
            if rest or index not in self._told:
                yield self._added(index, rest)
            yield self._chunk([{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}])
        if self._with_usage:
            yield self._chunk([], usage=answer["usage"])
        yield "data: [DONE]\n\n"

    def _added(self, index: int, text: str) -> str:
        delta = {"content": text} | ({} if index in self._told else {"role": "assistant"})
        self._told[index] = self._told.get(index, "") + text
        return self._chunk([{"index": index, "delta": delta, "finish_reason": None}])

    def _chunk(self, choices: list[Answer], **more: Any) -> str:
        return f"data: {json.dumps({**self._common, 'choices': choices, **more})}\n\n"


def event(name: str, data: Answer) -> str:
    """A server-sent event; JSON text has no line breaks."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def streamed(
    work: Callable[[Told], Awaitable[Answer]], form: Form, failed: Callable[[Exception], Answer]
) -> StreamingResponse:
    """The response that sends what ``work`` tells, and then what it comes to.

    ``failed``: the error object of what ``work`` raises when the response has begun; it ends the stream.

    Raises:
        Exception: of ``work``, before anything was told.

    """
    items = _told(work)
    first = await anext(items)

    async def body() -> AsyncIterator[str]:
        async with aclosing(items):
            try:
                for text in _written(first, form):
                    yield text
                async for item in items:
                    for text in _written(item, form):
                        yield text
            except Exception as error:
                yield event("error", failed(error))

    # The last for proxies that would collect what they pass on.
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def _written(item: Piece | Answer, form: Form) -> Iterator[str]:
    return form.pieces(item) if isinstance(item, Piece) else form.answer(item)


async def _told(work: Callable[[Told], Awaitable[Answer]]) -> Any:
    """What ``work`` tells, and last what it comes to. Who stops reading ends the work."""
    told: asyncio.Queue[Piece | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(told.put_nowait))
    task.add_done_callback(lambda done: told.put_nowait(None))
    try:
        while (piece := await told.get()) is not None:
            yield piece
        yield task.result()
    finally:
        task.cancel()
