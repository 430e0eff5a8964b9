"""A batch of all three modes through the loop's own collecting and the verifier itself, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from transformers import AutoTokenizer

from actors.deadlines import NamedActor
from actors.messages import Prompt, Sampling, ScoredGroup, Trace
from actors.verifier.actor import RewardVerifier
from actors.verifier.rewards import RewardRule
from pipelines.config.data import Modes
from pipelines.data.modes import items_of
from pipelines.data.tiny_modes import mode_chain, with_others
from pipelines.data.tiny_tasks import generate_items, teacher_chain
from pipelines.loop.batches import is_useful
from pipelines.loop.metrics import rollout_metrics
from pipelines.loop.records import trace_rows
from pipelines.loop.rollouts import ScoredItem, collect

PAIRS = {pair.id: with_others(pair) for pair in generate_items(1, {"x": 30})["x"]}
OPPOSITE = {"A": "B", "B": "A"}


class Fleet:
    """Writes for every prompt what the teacher would, then an answer that is as wrong as can be, then none."""

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        for prompt in reversed(prompts):
            for sample, text in enumerate((self.right(prompt), self.wrong(prompt), "I cannot say")):
                tokens = np.ones(2, np.int32)
                yield [Trace(prompt.uid, sample, tokens, np.zeros(2, np.float32), text, "stop", np.zeros(2, np.int32))]

    def right(self, prompt: Prompt) -> str:
        pair = PAIRS[prompt.pair_id]
        if prompt.judged == "pairwise":
            return teacher_chain(pair, prompt.label, "0")
        return mode_chain(pair, prompt.judged, prompt.order, "0")

    def wrong(self, prompt: Prompt) -> str:
        if prompt.judged == "pairwise":
            return f"<answer>[[{OPPOSITE[prompt.label]}]]</answer>"
        if prompt.judged == "pointwise":
            return f"<answer>[[{1 if prompt.label == 'A' else 10}]]</answer>"
        others = [letter for letter in "ABC"[: prompt.responses] if letter != prompt.label]
        return f"<answer>[[{' > '.join([*others, prompt.label])}]]</answer>"


def collected(items: Sequence[Sequence[Prompt]]) -> dict[str, ScoredGroup]:
    verifier = RewardVerifier(RewardRule({"verdict": 1.0, "format": 0.0}, mode="strict"))
    handle = SimpleNamespace(
        score=SimpleNamespace(remote=verifier.score), compare=SimpleNamespace(remote=verifier.compare)
    )
    found: dict[str, ScoredGroup] = {}

    def arrived(index: int, item: ScoredItem) -> None:
        found.update({group.prompt.uid: group for group in item.groups})

    actor = NamedActor(handle, "verifier")
    asyncio.run(
        collect(cast(Any, Fleet().generate), actor, items, Sampling(samples=3), arrived=arrived, comparing=True)
    )
    return found


def test_a_mix_is_scored_mode_by_mode(tiny_model_directory: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_directory)
    items, dropped = items_of(list(PAIRS.values()), "both", Modes(1.0, 1.0, 1.0), 0, "tiny", tokenizer, 512)
    assert (len(items), dropped.count) == (30, 0)
    groups = collected(items)
    assert len(groups) == 60
    modes = {group.prompt.judged for group in groups.values()}
    assert modes == {"pairwise", "pointwise", "listwise"}
    for group in groups.values():
        right, wrong, none = (item.reward for item in group.traces)
        if group.prompt.judged == "pointwise":
            # Against the other response's three: on the right side of its own, not of the wrong one, half of none.
            assert (right, wrong) == pytest.approx((0.0, -2 / 3))
        else:
            assert (right, wrong) == (1.0, -1.0)
        assert none == -1.0
        assert [item.parts["format"] for item in group.traces] == [1.0, 0.0, 0.0]
        assert is_useful(group)
    metrics = rollout_metrics(list(groups.values()), 0)
    assert {mode: metrics[f"accuracy/mode/{mode}"] for mode in modes} == pytest.approx(
        {"pairwise": 1 / 3, "listwise": 1 / 3, "pointwise": 0.0}
    )
    assert metrics["parse_rate"] == 2 / 3
    rows = trace_rows("rl", 1, groups.values(), PAIRS)
    assert len(rows) == 180
    for row in rows:
        mode = groups[f"{row['pair_id']}/{row['order']}"].prompt.judged
        assert (row["response_b"] == "") == (mode == "pointwise")
        assert (row["verdict"] is None) == (row["sample"] == 2)


def test_pairs_alone_have_no_figure_by_mode(tiny_model_directory: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_directory)
    items, _ = items_of(list(PAIRS.values())[:4], "both", Modes(), 0, "tiny", tokenizer, 512)
    metrics = rollout_metrics(list(collected(items).values()), 0)
    assert not [name for name in metrics if name.startswith("accuracy/mode")]
    assert metrics["accuracy"] == 1 / 3
