"""The server asked by OpenAI's own client, over a real socket; its engines are scripted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import openai
import pytest
from families import FAMILIES
from scripted_engines import judge_of
from served import LIMITS, Faulty, listening

from actors.messages import Added, Prompt, Sampling, Trace
from pipelines.serving.app import build_app
from pipelines.serving.service import Service

QWEN = FAMILIES["qwen2_5"]()
ASKED: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Which is better?"}]


class Echo:
    """Engines that say what they were asked."""

    tokenizer = QWEN

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        for prompt in prompts:
            for sample in range(sampling.samples):
                text = f"{sample}: {QWEN.decode(prompt.token_ids, skip_special_tokens=True)}"
                tokens = np.zeros(3, np.int32)
                yield [Trace(prompt.uid, sample, tokens, np.zeros(0, np.float32), text, "stop", tokens)]

    async def watch(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Added | Trace]]:
        async for (trace,) in self.generate(prompts, sampling):
            yield [Added(trace.prompt_uid, trace.sample, word) for word in re.split(r"(?<= )", trace.text)]
            yield [trace]


def app(keys: tuple[str, ...] = (), **limits: Any) -> Any:
    return build_app(Service(judge_of(Echo()), replace(LIMITS, **limits)), keys)  # type: ignore[arg-type]


def test_completions_by_base_url_alone() -> None:
    with listening(app(keys=("a-key",))) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="a-key")
        (model,) = client.models.list().data
        completion = client.chat.completions.create(model=model.id, messages=ASKED, n=2, max_tokens=5, seed=1)
        assert [choice.index for choice in completion.choices] == [0, 1]
        content = completion.choices[1].message.content or ""
        assert content.startswith("1: ")
        assert "Be brief." in content
        assert "Which is better?" in content
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 6


def test_streams() -> None:
    with listening(app()) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        stream = client.chat.completions.create(
            model="model", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert len(chunks) > 6
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text.startswith("0: ")
        assert "Which is better?" in text
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == [
            "stop"
        ]
        assert chunks[-1].usage is not None


def test_the_asynchronous_client() -> None:
    async def ask(address: str) -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            calls = (client.chat.completions.create(model="model", messages=ASKED) for _ in range(4))
            return [one.choices[0].message.content for one in await asyncio.gather(*calls)]

    with listening(app()) as address:
        assert len(set(asyncio.run(ask(address)))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.UnprocessableEntityError, "invalid_request"),
        ({"temperature": 9}, openai.UnprocessableEntityError, "invalid_request"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, openai.UnprocessableEntityError, "prompt_too_long"),
        ({"messages": [{"role": "user", "content": "x" * 2_000_000}]}, openai.APIStatusError, "request_too_large"),
    ],
)
def test_refusals_are_the_clients_own_errors(body: Any, kind: type[openai.APIStatusError], code: str) -> None:
    with listening(app()) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        with pytest.raises(kind) as caught:
            client.chat.completions.create(**{"model": "model", "messages": ASKED, **body})
        assert caught.value.code == code


@pytest.mark.slow
def test_a_wrong_key_and_a_busy_server() -> None:
    with listening(app(keys=("a-key",))) as address, pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="other").models.list()
    busy = Faulty(app(), (429, {"retry-after": "0"}), (503, {"retry-after": "0"}))
    with listening(busy) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        assert client.chat.completions.create(model="model", messages=ASKED).choices
        assert busy.posts == 3
