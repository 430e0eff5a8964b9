"""Who has devices that engines and learners share, at every moment: on parts that only say what they are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import pytest
from commands import wait_until
from hypothesis import given
from hypothesis import strategies as st

from actors.deadlines import DeadlineExceeded
from actors.messages import MemoryUse
from actors.turns import Together, Turns

GIB = 2**30
A_STEP = ["engines sleep", "learners on", "wake weights", "learners off", "wake kv_cache"]


class Devices:
    """Engines and learners that note what they are told, and what is on the devices meanwhile."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.awake = {"weights", "kv_cache"}
        self.learners_on = False
        self.is_publishing = False
        self.fails = ""

    def _tell(self, what: str) -> None:
        self.told.append(what)
        if what == self.fails:
            raise RuntimeError(what)

    def _check(self) -> None:
        assert not (self.learners_on and "kv_cache" in self.awake)
        assert not (self.learners_on and self.awake and not self.is_publishing)

    def sleep(self, at_once: bool) -> list[MemoryUse]:
        self._tell("engines give up" if at_once else "engines sleep")
        self.awake = set()
        return [MemoryUse(6 * GIB, GIB), MemoryUse(5 * GIB, 2 * GIB)]

    def wake(self, part: str) -> None:
        self._tell(f"wake {part}")
        assert part not in self.awake
        self.awake.add(part)
        self._check()

    def take_device(self) -> None:
        self._tell("learners on")
        assert not self.learners_on
        self.learners_on = True
        self._check()

    def leave_device(self) -> list[MemoryUse]:
        self._tell("learners off")
        assert self.learners_on
        self.learners_on = False
        return [MemoryUse(7 * GIB, 0)]

    @contextmanager
    def publish(self, turns: Turns):
        self.is_publishing = True
        try:
            with turns.publishing():
                assert self.learners_on
                assert self.awake == {"weights"}
                yield
        finally:
            self.is_publishing = False


def shared(seconds: float = 30.0, hurried: Callable[[], bool] = lambda: False) -> tuple[Turns, Devices]:
    turns, devices = Turns(seconds, hurried), Devices()
    turns.attach(engines=devices)
    turns.attach(learners=devices)
    return turns, devices


async def write(turns: Together, devices: Devices, during: Callable[[], None] = lambda: None) -> None:
    async with turns.engines():
        assert not devices.learners_on
        assert devices.awake == {"weights", "kv_cache"}
        during()


def learn(turns: Together, devices: Devices) -> None:
    with turns.learners():
        assert devices.learners_on
        assert devices.awake == set()


def test_a_step_moves_each_side_once() -> None:
    turns, devices = shared()
    for _ in range(2):
        devices.told.clear()
        for _ in range(3):
            asyncio.run(write(turns, devices))
        for _ in range(3):
            learn(turns, devices)
        with devices.publish(turns), turns.learners():
            devices.told.append("publish")
        asyncio.run(write(turns, devices))
        assert devices.told == [*A_STEP[:3], "publish", *A_STEP[3:]]


@pytest.mark.slow
@given(st.lists(st.sampled_from(["write", "learn", "publish", "restart", "new learners", "clear"]), max_size=30))
def test_whatever_follows_whatever_they_are_never_on_the_devices_together(acts: list[str]) -> None:
    """``Devices`` says so, at each thing that it is told."""
    turns, devices = shared()
    for act in acts:
        if act == "write":
            asyncio.run(write(turns, devices))
        elif act == "learn":
            learn(turns, devices)
        elif act == "publish":
            with devices.publish(turns):
                pass
        elif act == "restart":
            with turns.restarting():
                assert not devices.learners_on
        elif act == "new learners":
            # The ones before have ended, and what they had on the devices with them.
            devices.learners_on = False
            turns.attach(learners=devices)
        else:
            turns.clear()
            assert not devices.learners_on
            devices.awake = {"weights", "kv_cache"}
            turns.attach(engines=devices)


def test_times_and_memory_are_of_what_was_moved() -> None:
    turns, devices = shared()
    assert turns.metrics() == dict.fromkeys(("time/sleep", "time/wake", "time/offload", "time/onload"), 0.0)
    learn(turns, devices)
    with devices.publish(turns):
        pass
    first = turns.metrics()
    assert all(first[f"time/{name}"] > 0 for name in ("sleep", "wake", "offload", "onload"))
    memory = {"memory/engines": 6.0, "memory/engines_asleep": 2.0, "memory/learners": 7.0, "memory/learners_off": 0.0}
    assert {name: value for name, value in first.items() if name.startswith("memory/")} == memory
    assert turns.metrics() == memory | dict.fromkeys(("time/sleep", "time/wake", "time/offload", "time/onload"), 0.0)


@pytest.mark.slow
def test_learners_wait_for_the_ends_of_what_engines_write_and_many_may_write() -> None:
    turns, devices = shared()
    go_on = threading.Event()

    async def two() -> None:
        async with turns.engines(), turns.engines():
            await asyncio.to_thread(go_on.wait)

    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(asyncio.run, two())
        wait_until(lambda: turns._holds["engines"] == 2, 30, "both")
        learning = pool.submit(learn, turns, devices)
        with pytest.raises(TimeoutError):
            learning.result(timeout=0.5)
        assert devices.told == []
        go_on.set()
        writing.result(30)
        learning.result(30)
    assert devices.told == A_STEP[:2]


def test_engines_wait_for_learners_and_hold_up_no_event_loop() -> None:
    turns, devices = shared()
    learn(turns, devices)
    devices.told.clear()

    async def ask_while_learners_work() -> None:
        began, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work() -> None:
            with turns.learners():
                loop.call_soon_threadsafe(began.set)
                go_on.wait()
                assert devices.told == []

        working = asyncio.create_task(asyncio.to_thread(work))
        await began.wait()
        # More than threads for the loop's own work, which all of them would be if each waited in one.
        asking = [asyncio.create_task(write(turns, devices)) for _ in range(100)]
        await asyncio.to_thread(lambda: None)
        assert not any(task.done() for task in asking)
        asking.pop().cancel()
        go_on.set()
        await working
        await asyncio.gather(*asking)

    asyncio.run(asyncio.wait_for(ask_while_learners_work(), 60))
    assert devices.told == ["learners off", "wake weights", "wake kv_cache"]
    assert turns._holds == {"engines": 0, "learners": 0}
    learn(turns, devices)


def test_one_who_gives_up_waiting_leaves_the_devices_free() -> None:
    turns, devices = shared()
    learn(turns, devices)

    async def give_up() -> None:
        with turns.learners():
            asking = asyncio.create_task(write(turns, devices))
            wait_until(lambda: turns._waiting._work_queue.empty(), 30, "the turn to be waited for")
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(give_up())
    # By whatever order: what was waited for in vain ends, and is not held.
    wait_until(lambda: turns._holds == {"engines": 0, "learners": 0} and turns._mover is None, 30, "nobody")
    learn(turns, devices)


def test_in_a_hurry_learners_do_not_wait_for_what_is_written() -> None:
    hurry = threading.Event()
    turns, devices = shared(hurried=hurry.is_set)

    async def saved() -> None:
        async with turns.engines():
            hurry.set()
            await asyncio.to_thread(learn, turns, devices)

    asyncio.run(saved())
    assert devices.told == ["engines give up", "learners on"]


@pytest.mark.slow
def test_one_that_never_gives_the_devices_back_is_named() -> None:
    turns, devices = shared(0.3)

    async def held() -> None:
        async with turns.engines():
            await asyncio.to_thread(learn, turns, devices)

    with pytest.raises(DeadlineExceeded, match=r"waited 0\.3 s for the devices that engines did not give back"):
        asyncio.run(held())
    assert devices.told == []


@pytest.mark.parametrize("fails", A_STEP)
def test_after_an_error_the_next_turn_begins_from_what_is_there(fails: str) -> None:
    turns, devices = shared()

    def step() -> None:
        learn(turns, devices)
        with devices.publish(turns):
            pass

    devices.fails = fails
    with pytest.raises(RuntimeError, match=fails):
        step()
    devices.fails = ""
    step()
    asyncio.run(write(turns, devices))
    assert turns._mover is None


def test_an_error_of_a_publish_is_its_own_and_learners_may_go_on() -> None:
    turns, devices = shared()
    with pytest.raises(ValueError, match="other bytes"), devices.publish(turns):
        raise ValueError("other bytes")
    learn(turns, devices)
    assert devices.told == [*A_STEP[:3], "engines sleep"]


def test_with_devices_of_their_own_nobody_waits() -> None:
    turns = Together()

    @asynccontextmanager
    async def all_at_once() -> AsyncIterator[None]:
        async with turns.engines():
            with turns.learners(), turns.publishing(), turns.restarting():
                yield

    async def check() -> None:
        async with all_at_once():
            pass

    asyncio.run(check())
    assert turns.metrics() == {}
