"""Engines that write what a script says about a prompt's text, in the records of real ones."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from actors.messages import Added, GenerationFailure, Prompt, Sampling, Trace
from pipelines.data.prompts import PromptTemplate
from pipelines.judgment.judging import EngineJudge, JudgingRule

TEMPLATE = PromptTemplate("{conversation}\nA {response_a} A\nB {response_b} B")
RULE = JudgingRule(("a_first", "b_first"), 1, 0.0, 4096, 64, "strict", 0)


@dataclass
class ScriptedEngines:
    """``script`` writes the judgment of a prompt, given as the text of its tokens; None makes the engine fail."""

    tokenizer: Any
    script: Callable[[str, int], str | None]
    asked: list[str] = field(default_factory=list)
    """Uids of all prompts so far."""
    calls: int = 0
    pause: float = 0.0
    """Seconds between words, for those who watch."""

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        self.calls += 1
        # Last first: nothing may depend on the order of arrival.
        for prompt in reversed(prompts):
            self.asked.append(prompt.uid)
            text = self.script(self.tokenizer.decode(prompt.token_ids), int(prompt.uid.rpartition("/")[2]))
            if text is None:
                yield [GenerationFailure(prompt.uid, 0, "engine_error", "it broke")]
                continue
            tokens = np.zeros(3, np.int32)
            yield [Trace(prompt.uid, 0, tokens, np.zeros(0, np.float32), text, "stop", tokens)]

    async def unfinished(self) -> int:
        return 0

    async def watch(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Added | Trace | GenerationFailure]]:
        """What :meth:`generate` yields, after the texts word by word, those of all prompts in turn."""
        finished = [item async for ready in self.generate(prompts, sampling) for item in ready]
        words = [re.findall(r"\s*\S+\s*$|\s*\S+", item.text) for item in finished if isinstance(item, Trace)]
        uids = [item.prompt_uid for item in finished if isinstance(item, Trace)]
        for turn in zip_longest(*words):
            yield [Added(uid, 0, word) for uid, word in zip(uids, turn, strict=True) if word is not None]
            await asyncio.sleep(self.pause)
        yield list(finished)


def answers(text: str) -> tuple[str, str]:
    """What a prompt of :data:`TEMPLATE` shows as A and as B."""
    return text.split("\nA ")[1].split(" A\n")[0], text.split("\nB ")[1].split(" B")[0]


def longer(text: str, vote: int = 0) -> str:
    """The longer response wins, in either order."""
    first, second = answers(text)
    return f"<answer>[[{'A' if len(first) > len(second) else 'B'}]]</answer>"


def judge_of(engines: ScriptedEngines, rule: JudgingRule = RULE, weights: str = "w") -> EngineJudge:
    return EngineJudge(engines, TEMPLATE, engines.tokenizer, "model", weights, rule)
