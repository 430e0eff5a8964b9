"""The supply of a training loop: which prompts a step has, when items begin and pass each other, what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from configs import configured
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import many_pairs

from actors.messages import Prompt, Sampling, ScoredGroup, ScoredTrace, Trace, Verdict, VerificationRequest
from pipelines.data.order import batch_of, refill_of, slice_of_stream
from pipelines.data.prompts import DroppedPrompts
from pipelines.loop.generation import Generation
from pipelines.loop.rollouts import RolloutBatch
from pipelines.loop.supply import Arrived, StepUnderWay, Supply
from pipelines.stages.inputs import JudgingTask

Result = TypeVar("Result")
PAIRS = {pair.id: pair for pair in many_pairs(6)}
NAMES = list(PAIRS)
BOTH = JudgingTask(
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
ALONE = JudgingTask(PAIRS, tuple((first,) for first, _ in BOTH.items), DroppedPrompts(0, 0))


class Engines:
    """Engines that write a prompt's traces when they are told to."""

    def __init__(self) -> None:
        self.version = 0
        self.waiting: dict[tuple[str, int], asyncio.Future[None]] = {}
        """Traces that are under way, by the prompt's uid and the sample."""
        self.begun: list[str] = []
        """Prompts in the order in which they came."""
        self.given_up = 0

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> AsyncIterator[list[Trace]]:
        finished: asyncio.Queue[Trace | RuntimeError] = asyncio.Queue()

        async def write(prompt: Prompt, sample: int) -> None:
            key, version = (f"{prompt.uid} {len(self.begun)}", sample), self.version
            self.waiting[key] = asyncio.get_running_loop().create_future()
            try:
                await self.waiting[key]
            except asyncio.CancelledError:
                self.given_up += 1
                raise
            except RuntimeError as error:
                finished.put_nowait(error)
                return
            finally:
                del self.waiting[key]
            versions = np.array([version, self.version], np.int32)
            tokens, logprobs = np.ones(2, np.int32), np.zeros(2, np.float32)
            finished.put_nowait(Trace(prompt.uid, sample, tokens, logprobs, "", "stop", versions))

        assert len({prompt.uid for prompt in prompts}) == len(prompts), "a call has a prompt once"
        tasks = []
        for prompt in prompts:
            self.begun.append(prompt.uid)
            tasks += [asyncio.create_task(write(prompt, sample)) for sample in range(sampling.samples)]
            await asyncio.sleep(0)
        try:
            for _ in tasks:
                trace = await finished.get()
                if isinstance(trace, RuntimeError):
                    raise trace
                yield [trace]
        finally:
            for task in tasks:
                task.cancel()

    async def finish(self, which: Callable[[str], bool] = lambda prompt: True) -> list[str]:
        """Let the traces of these prompts end, and everybody see it; returns the prompts, of each trace one."""
        ended = [key for key in self.waiting if which(key[0].split(" ")[0])]
        for key in ended:
            self.waiting[key].set_result(None)
        await seen()
        return [key[0].split(" ")[0] for key in ended]

    def fail(self) -> None:
        next(iter(self.waiting.values())).set_exception(RuntimeError("the engine died"))


async def seen() -> None:
    """Until everybody has seen what happened."""
    for _ in range(60):
        await asyncio.sleep(0)


async def equal_rewards(requests: Sequence[VerificationRequest]) -> list[ScoredTrace]:
    return [ScoredTrace(item.trace, Verdict("A", None), 1.0) for item in requests]


@contextmanager
def supplied(
    *overrides: str, task: JudgingTask = ALONE, steps: range = range(3), state: Any = None
) -> Iterator[tuple[Supply, Engines]]:
    """A supply of two prompts per step and two traces per prompt, at most eight at once, and its engines."""
    config = configured(
        *("recipe=tiny", "rl.prompts_per_step=2", "rl.mini_batch_prompts=2", "rl.epochs=2", "algorithm.samples=2"),
        *("rollout.max_sequences=6", "algorithm.old_logprobs=rollout", *overrides),
    )
    engines = Engines()
    verifier: Any = SimpleNamespace(score=SimpleNamespace(remote=equal_rewards))
    verifier.handle = verifier
    with Supply(config, Generation(config, cast(Any, engines), verifier, task), task, steps, state) as supply:
        yield supply, engines


def uids(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.prompt.uid for group in groups]


def prompts_at(*positions: int) -> list[str]:
    """The first prompts of the items at these places of the stream."""
    return [f"{NAMES[slice_of_stream(6, 0, position, position + 1)[0]]}/1" for position in positions]


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    async def within_a_minute() -> Result:
        return await asyncio.wait_for(work(), 60)

    return asyncio.run(within_a_minute())


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_on_policy_a_step_has_its_slice_of_the_stream_in_order_whatever_ends_first(random: Any) -> None:
    async def work() -> None:
        with supplied(task=BOTH, steps=range(2, 9)) as (supply, engines):
            for step in range(2, 9):
                engines.version = step
                supply.published(step)
                under_way = supply.next_step()
                await seen()
                while engines.waiting:
                    lucky = random.choice(list(engines.waiting))[0].split(" ")[0]
                    await engines.finish(lambda prompt, lucky=lucky: prompt == lucky)
                batch = await under_way.whole()
                [item] = batch_of(6, 0, 1, step, 2)
                assert uids(batch.groups) == [f"{NAMES[item]}/1", f"{NAMES[item]}/2"]
                assert {trace.trace.min_version for group in batch.groups for trace in group.traces} == {step}

    run(work)


@pytest.mark.slow
def test_an_item_that_ends_makes_room_for_another_while_others_are_written() -> None:
    async def work() -> None:
        with supplied("algorithm.max_staleness=3") as (supply, engines):
            supply.published(0)
            await seen()
            assert engines.begun == prompts_at(0, 1, 2, 3), "eight traces"
            assert supply.gauges(0)["slots"] == supply.gauges(0)["slots_in_use"] == 8
            first = prompts_at(0)[0]
            next(future for key, future in engines.waiting.items() if key[0].startswith(first)).set_result(None)
            await seen()
            assert engines.begun == prompts_at(0, 1, 2, 3, 4), "one trace of two was enough"
            await engines.finish(lambda prompt: prompt == first)
            assert len(engines.begun) == 5, "nine are under way"
            await engines.finish(lambda prompt: prompt in prompts_at(2))
            assert engines.begun == prompts_at(0, 1, 2, 3, 4, 5)
            batch = await supply.next_step().whole()
            assert uids(batch.groups) == prompts_at(0, 2), "the first complete ones, in the order of the stream"
            assert supply.state() == {"begun": 6, "outstanding": [0, 1, 2, 3, 4, 5]}, "none is trained on yet"

    run(work)


@pytest.mark.slow
def test_a_long_trace_is_passed_until_its_last_step_and_keeps_within_its_staleness() -> None:
    async def work() -> None:
        long, trained, ages = prompts_at(0)[0], [], []
        with supplied("algorithm.max_staleness=2", steps=range(6)) as (supply, engines):
            for step in range(3):
                engines.version = step
                supply.published(step)
                under_way = supply.next_step()
                waiting = asyncio.create_task(under_way.whole())
                await seen()
                while not waiting.done():
                    # The long one is still written when nothing else is left to do.
                    if not await engines.finish(lambda prompt: prompt != long):
                        await engines.finish()
                    await seen()
                batch = await waiting
                trained.append(uids(batch.groups))
                ages += [step - trace.trace.min_version for group in batch.groups for trace in group.traces]
        assert [long in step for step in trained] == [False, False, True]
        assert max(ages) == 2
        assert sorted(chain.from_iterable(trained)) == sorted(prompts_at(*range(6)))

    run(work)


def test_an_item_that_comes_twice_in_a_step_is_written_twice() -> None:
    async def work() -> None:
        sizes = ("rl.prompts_per_step=8", "rl.mini_batch_prompts=8", "rollout.max_sequences=99")
        with supplied(*sizes, steps=range(1)) as (supply, engines):
            supply.published(0)
            await seen()
            await engines.finish()
            batch = await supply.next_step().whole()
            assert uids(batch.groups) == prompts_at(*range(8))
            assert len(set(uids(batch.groups))) == 6

    run(work)


def test_refills_are_other_items_and_nobody_is_told_of_them() -> None:
    async def work() -> None:
        sizes = ("rl.prompts_per_step=4", "rl.mini_batch_prompts=4", "algorithm.refill_rounds=2")
        with supplied("algorithm.equal_reward_groups=refill", *sizes, task=BOTH) as (supply, engines):
            supply.published(0)
            under_way = supply.next_step()
            early: list[str] = []

            async def listen() -> None:
                async for groups in under_way.portions(1):
                    early.extend(uids(groups))

            listening = asyncio.create_task(listen())
            await seen()
            while engines.waiting:
                await engines.finish()
            found = await under_way.whole()
            await listening
            own = batch_of(6, 0, 2, 0, 2)
            refills = [refill_of(6, 0, 2, 0, number, exclude=own) for number in (1, 2)]
            assert uids(found.groups) == [
                f"{NAMES[item]}/{order}" for item in [*own, *refills[0], *refills[1]] for order in (1, 2)
            ]
            assert sorted(early) == sorted(f"{NAMES[item]}/{order}" for item in own for order in (1, 2))
            assert (found.refills, found.wanted) == (2, 4)

    run(work)


def test_refills_of_a_step_ahead_are_written_before_its_turn() -> None:
    async def work() -> None:
        overrides = ("algorithm.equal_reward_groups=refill", "algorithm.refill_rounds=1", "algorithm.max_staleness=1")
        with supplied(*overrides) as (supply, engines):
            supply.published(0)
            await seen()
            while engines.waiting:
                await engines.finish()
            # Nobody has asked for step 0 yet, and the refills of steps 0 and 1 are there.
            assert len(engines.begun) == 8
            assert [(await supply.next_step().whole()).refills for _ in range(2)] == [1, 1]

    run(work)


def test_an_error_ends_every_step_and_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        with supplied("algorithm.max_staleness=2") as (supply, engines):
            supply.published(0)
            await seen()
            engines.fail()
            await seen()
            for _ in range(2):
                under_way = supply.next_step()
                assert [groups async for groups in under_way.portions(1)] == []
                with pytest.raises(RuntimeError, match="the engine died"):
                    await under_way.whole()

    run(work)
    assert caplog.records == [], "asyncio has nothing to say of errors that nobody looked at"


def test_what_is_under_way_at_the_end_is_given_up() -> None:
    async def work() -> None:
        with supplied("algorithm.max_staleness=2") as (supply, engines):
            supply.published(0)
            await seen()
            assert len(engines.waiting) == 8
        await seen()
        assert (engines.waiting, engines.given_up) == ({}, 8)

    run(work)


def test_a_supply_that_goes_on_begins_with_what_was_outstanding() -> None:
    async def work() -> None:
        state = {"begun": 7, "outstanding": [1, 4, 6]}
        with supplied("algorithm.max_staleness=2", steps=range(2, 6), state=state) as (supply, engines):
            supply.published(2)
            await seen()
            assert engines.begun == prompts_at(1, 4, 6, 7)
            await engines.finish(lambda prompt: prompt in prompts_at(4, 7))
            assert uids((await supply.next_step().whole()).groups) == prompts_at(4, 7)
            supply.published(3)
            assert supply.state() == {"begun": 10, "outstanding": [1, 6, 8, 9]}

    run(work)


def group(uid: str, *lengths: int) -> ScoredGroup:
    """Traces of so many tokens, after a prompt of two."""
    traces = tuple(
        ScoredTrace(
            Trace(uid, sample, np.ones(length, np.int32), np.zeros(length, np.float32), "", "stop", np.zeros(length)),
            Verdict("A", None),
            1.0,
        )
        for sample, length in enumerate(lengths)
    )
    return ScoredGroup(Prompt(uid, uid, "chosen_first", "A", "chat", (1, 2)), traces)


def portions(
    play: Callable[[Arrived, Callable[[], Awaitable[None]]], Awaitable[RolloutBatch]], tokens: int
) -> tuple[list[list[str]], RolloutBatch]:
    """What comes early of a batch that is written by ``play``, which may wait until what has arrived was looked at."""

    async def run() -> tuple[list[list[str]], RolloutBatch]:
        async def looked_at() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        under_way = StepUnderWay(lambda arrived: play(arrived, looked_at))
        early = [[item.prompt.uid for item in portion] async for portion in under_way.portions(tokens)]
        return early, await under_way.whole()

    return asyncio.run(run())


def test_groups_come_once_and_when_they_have_the_tokens_asked_for() -> None:
    p, q, r, s = group("p", 3, 3), group("q", 3, 3), group("r", 20), group("s", 1)

    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        arrived(p)  # 2 x (2 + 3) = 10 tokens, fewer than 20
        await looked_at()
        arrived(q)  # 20
        await looked_at()
        arrived(r)  # 22
        await looked_at()
        arrived(s)
        await looked_at()
        return RolloutBatch((p, q, r, s), 1.0, 0.0)

    early, whole = portions(play, 20)
    assert early == [["p", "q"], ["r"]]
    assert [item.prompt.uid for item in whole.groups] == ["p", "q", "r", "s"]


def test_what_comes_with_the_end_is_no_portion() -> None:
    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        await looked_at()
        arrived(group("p", 50))
        return RolloutBatch((group("p", 50),), 1.0, 0.0)

    early, whole = portions(play, 20)
    assert early == []
    assert len(whole.groups) == 1


def test_an_error_ends_the_portions_and_is_raised() -> None:
    async def play(arrived: Arrived, looked_at: Callable[[], Awaitable[None]]) -> RolloutBatch:
        arrived(group("p", 50))
        await looked_at()
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        portions(play, 20)


def test_a_batch_that_is_given_up_is_cancelled() -> None:
    async def run() -> bool:
        cancelled = asyncio.Event()

        async def work(arrived: Arrived) -> RolloutBatch:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        under_way = StepUnderWay(work)
        await asyncio.sleep(0)
        under_way.cancel()
        await asyncio.wait_for(cancelled.wait(), 10)
        return cancelled.is_set()

    assert asyncio.run(run())
