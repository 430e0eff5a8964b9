"""Long traces in portions: every token once, with its own version; no engine is held, and no step waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from configs import configured
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import many_pairs

from actors.messages import (
    GenerationFailure,
    Prompt,
    Sampling,
    ScoredTrace,
    Trace,
    Verdict,
    VerificationRequest,
)
from pipelines.data.prompts import DroppedPrompts
from pipelines.loop.generation import Generation
from pipelines.loop.portions import PortionedFleet
from pipelines.loop.supply import Supply
from pipelines.stages.inputs import JudgingTask

PAIRS = {pair.id: pair for pair in many_pairs(12)}


def prompt(name: str) -> Prompt:
    return Prompt(name, name, "chosen_first", "A", "d", (7, 7))


class Engines:
    """Write the tokens 0, 1, 2, ... of a trace up to its length, one per turn of the loop; versions as published."""

    def __init__(self, lengths: dict[tuple[str, int], int]) -> None:
        self.lengths = lengths
        self.version = 0
        self.at_work = 0
        self.calls: list[tuple[str, int, int]] = []
        """Prompt, tokens it had already, and the limit of what was to follow."""
        self.broken = False

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        for item in prompts:
            self.calls.append((item.uid, len(item.written), sampling.max_tokens))
            assert item.written == tuple(range(len(item.written)))
            for sample in range(sampling.samples):
                if self.broken and item.written:
                    yield [GenerationFailure(item.uid, sample, "engine_error", "")]
                    continue
                self.at_work += 1
                try:
                    yield [await self.trace(item, sample, sampling)]
                finally:
                    self.at_work -= 1

    async def trace(self, item: Prompt, sample: int, sampling: Sampling) -> Trace:
        length, start, versions = self.lengths.get((item.uid, sample), 3), len(item.written), []
        while start + len(versions) < length and len(versions) < sampling.max_tokens:
            await asyncio.sleep(0)
            versions.append(self.version)
        tokens = np.arange(start, start + len(versions), dtype=np.int32)
        reason: Any = "stop" if start + len(versions) == length else "length"
        text = "".join(map(str, [*item.written, *tokens]))
        return Trace(item.uid, sample, tokens, -tokens.astype(np.float32), text, reason, np.array(versions, np.int32))


async def seen() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_long_trace_goes_on_under_the_next_weights_and_has_each_token_once() -> None:
    async def work() -> None:
        engines, released = Engines({("p", 0): 10, ("p", 1): 4}), []
        fleet, ended = PortionedFleet(cast(Any, engines), 4, released.append), []

        async def listen() -> None:
            async for traces in fleet.generate([prompt("p")], Sampling(2, max_tokens=100)):
                ended.extend(traces)

        listening = asyncio.create_task(listen())
        await seen()
        assert [trace.sample for trace in ended] == [1], "one that ends at the budget's last token is whole"
        assert (released, engines.at_work) == ([1], 0)
        for version in (1, 2):
            engines.version = version
            fleet.go_on(5)
            await seen()
        await listening
        [long] = [trace for trace in ended if trace.sample == 0]
        assert long.token_ids.tolist() == list(range(10))
        assert long.logprobs.tolist() == [-token for token in range(10)]
        assert long.versions.tolist() == [0] * 4 + [1] * 4 + [2] * 2
        assert (long.text, long.finish_reason) == ("0123456789", "stop")
        assert engines.calls == [("p", 0, 4), ("p", 4, 4), ("p", 8, 4)]
        assert released == [1, -1, 1, -1]

    asyncio.run(work())


def test_those_that_left_first_go_on_first_and_the_limit_of_the_whole_trace_holds() -> None:
    async def work() -> None:
        engines, ended = Engines({("p", 0): 99, ("q", 0): 99}), []
        fleet = PortionedFleet(cast(Any, engines), 6, lambda traces: None)

        async def listen() -> None:
            async for traces in fleet.generate([prompt("p"), prompt("q")], Sampling(1, max_tokens=11)):
                ended.extend(traces)

        listening = asyncio.create_task(listen())
        await seen()
        for expected in (["p"], ["p", "q"]):
            fleet.go_on(1)
            await seen()
            assert [trace.prompt_uid for trace in ended] == expected
        await listening
        assert [(len(trace.token_ids), trace.finish_reason) for trace in ended] == [(11, "length")] * 2
        assert engines.calls == [("p", 0, 6), ("q", 0, 6), ("p", 6, 5), ("q", 6, 5)]

    asyncio.run(work())


def test_a_portion_that_fails_is_the_failure_of_its_trace_and_an_error_ends_all() -> None:
    async def work() -> None:
        engines = Engines({("p", 0): 9})
        fleet = PortionedFleet(cast(Any, engines), 4, lambda traces: None)
        stream = fleet.generate([prompt("p")], Sampling(2, max_tokens=20))
        await anext(stream)
        await seen()
        engines.broken = True
        fleet.go_on()
        assert await anext(stream) == [GenerationFailure("p", 0, "engine_error", "")]
        assert [traces async for traces in stream] == []

        async def dies(prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
            raise RuntimeError("the engine died")
            yield []

        dead = PortionedFleet(cast(Any, SimpleNamespace(generate=dies)), 4, lambda traces: None)
        with pytest.raises(RuntimeError, match="the engine died"):
            await anext(dead.generate([prompt("p")], Sampling(1)))

    asyncio.run(work())


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False), staleness=st.integers(0, 3))
@pytest.mark.parametrize("refills", ["keep", "refill"])
def test_steps_come_to_their_end_however_many_traces_are_long(refills: str, random: Any, staleness: int) -> None:
    """Bimodal: some traces have a few tokens, some as many as eight budgets."""
    budget, steps = 4, 6
    task = JudgingTask(PAIRS, tuple((prompt(name),) for name in PAIRS), DroppedPrompts(0, 0))
    config = configured(
        *("recipe=tiny", "rl.prompts_per_step=2", "rl.mini_batch_prompts=2", "algorithm.samples=2"),
        *("rollout.max_sequences=4", "algorithm.old_logprobs=rollout", f"rollout.budget_tokens={budget}"),
        *(f"algorithm.max_staleness={staleness}", f"model.max_response_tokens={8 * budget}"),
        f"algorithm.equal_reward_groups={refills}",
    )
    longest = 8 * budget
    engines = Engines({(name, 0): random.choice((1, 3, longest, longest + 5)) for name in PAIRS})

    async def equal_rewards(requests: Sequence[VerificationRequest]) -> list[ScoredTrace]:
        return [ScoredTrace(item.trace, Verdict("A", None), 1.0) for item in requests]

    async def work() -> None:
        verifier: Any = SimpleNamespace(score=SimpleNamespace(remote=equal_rewards))
        verifier.handle = verifier
        generation = Generation(config, cast(Any, engines), verifier, task)
        with Supply(config, generation, task, range(steps), None) as supply:
            trained = []
            for step in range(steps):
                engines.version = step
                supply.published(step)
                batch = await supply.next_step().whole()
                trained += [group.prompt.uid for group in batch.groups[:2]]
                for group in batch.groups:
                    for item in group.traces:
                        assert step - item.trace.min_version <= staleness
                        assert item.trace.token_ids.tolist() == list(range(len(item.trace.token_ids)))
                for _ in range(random.choice((0, 3, 30))):  # The learners are at work.
                    await asyncio.sleep(0)
            assert sorted(trained) == sorted(PAIRS)
            assert supply.gauges(steps - 1)["slots_in_use"] == engines.at_work == 0

    asyncio.run(asyncio.wait_for(work(), 60))
