"""Engines that write what a script says about a prompt's text, in the records of real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from pipelines.data.prompts import PromptTemplate
from pipelines.judgment.judging import JudgingRule, PairwiseJudge

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


def answers(text: str) -> tuple[str, str]:
    """What a prompt of :data:`TEMPLATE` shows as A and as B."""
    return text.split("\nA ")[1].split(" A\n")[0], text.split("\nB ")[1].split(" B")[0]


def longer(text: str, vote: int = 0) -> str:
    """The longer response wins, in either order."""
    first, second = answers(text)
    return f"<answer>[[{'A' if len(first) > len(second) else 'B'}]]</answer>"


def judge_of(engines: ScriptedEngines, rule: JudgingRule = RULE, weights: str = "w") -> PairwiseJudge:
    return PairwiseJudge(engines, TEMPLATE, engines.tokenizer, "model", weights, rule)
