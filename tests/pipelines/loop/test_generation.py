"""Rollout batches of a step: which prompts, who is told of their groups, what comes in the place of equal rewards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from pairs import many_pairs

from actors.messages import Prompt, Sampling, ScoredTrace, Trace, Verdict, VerificationRequest
from pipelines.config.compose import load_config
from pipelines.data.order import batch_of, refill_of
from pipelines.data.prompts import DroppedPrompts
from pipelines.loop.generation import Generation
from pipelines.loop.rollouts import RolloutBatch
from pipelines.stages.inputs import JudgingTask

PAIRS = {pair.id: pair for pair in many_pairs(6)}
NAMES = list(PAIRS)
TASK = JudgingTask(
    PAIRS,
    tuple(
        (
            Prompt(f"{name}/1", name, "chosen_first", "A", "d", (1,)),
            Prompt(f"{name}/2", name, "chosen_second", "B", "d", (2,)),
        )
        for name in NAMES
    ),
    DroppedPrompts(0, 0),
)


async def generate(prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
    """Two tokens for every sample."""
    for prompt in prompts:
        yield [
            Trace(prompt.uid, sample, np.ones(2, np.int32), np.zeros(2, np.float32), "", "stop", np.zeros(2, np.int32))
            for sample in range(sampling.samples)
        ]


async def equal_rewards(requests: Sequence[VerificationRequest]) -> list[ScoredTrace]:
    return [ScoredTrace(item.trace, Verdict("A", None), 1.0) for item in requests]


def batch(step: int, *overrides: str) -> tuple[RolloutBatch, list[str]]:
    """The batch of a step whose traces all have the same reward, and the prompts of the groups that were told of."""
    told: list[str] = []
    config = load_config(
        [
            "recipe=tiny",
            "data.orders=both",
            "rl.prompts_per_step=4",
            "rl.mini_batch_prompts=4",
            "rl.epochs=2",
            *overrides,
        ]
    )
    verifier: Any = SimpleNamespace(score=SimpleNamespace(remote=equal_rewards))
    verifier.handle = verifier
    generation = Generation(config, cast(Any, SimpleNamespace(generate=generate)), verifier, TASK)
    found = asyncio.run(generation.batch(step, lambda group: told.append(group.prompt.uid)))
    return found, told


def uids(items: Sequence[int]) -> list[str]:
    return [f"{NAMES[item]}/{order}" for item in items for order in (1, 2)]


def test_a_step_has_its_items_in_both_orders_and_everyone_is_told() -> None:
    found, told = batch(1)
    assert [group.prompt.uid for group in found.groups] == uids(batch_of(6, 0, 2, 1, 2))
    assert sorted(told) == sorted(group.prompt.uid for group in found.groups)
    assert {len(group.traces) for group in found.groups} == {8}


def test_an_item_that_comes_twice_in_a_batch_is_generated_twice() -> None:
    found, told = batch(0, "rl.prompts_per_step=16", "rl.mini_batch_prompts=16")
    assert len(found.groups) == len(told) == 16
    assert len({group.prompt.uid for group in found.groups}) == 12


def test_refills_are_other_items_and_nobody_is_told_of_them() -> None:
    found, told = batch(0, "algorithm.equal_reward_groups=refill", "algorithm.refill_rounds=2")
    own = batch_of(6, 0, 2, 0, 2)
    refills = [refill_of(6, 0, 2, 0, number, exclude=own) for number in (1, 2)]
    assert [group.prompt.uid for group in found.groups] == uids([*own, *refills[0], *refills[1]])
    assert sorted(told) == sorted(uids(own))
    assert (found.refills, found.wanted) == (2, 4)
