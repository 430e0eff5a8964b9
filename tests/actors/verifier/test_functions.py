"""Users' reward functions in processes that can be killed: what they may return, and every way to fail by cause."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import (
    Prompt,
    RewardFailure,
    ScoredGroup,
    ScoredTrace,
    Shown,
    Trace,
    VerificationRequest,
)
from actors.verifier.actor import RewardVerifier
from actors.verifier.function_process import FunctionError
from actors.verifier.functions import FunctionPool, RewardFunction
from actors.verifier.judged import Judged
from actors.verifier.rewards import RewardError, RewardRule

MODULE = """
import asyncio, os, subprocess, sys, time
from actors.verifier.judged import Judged

def brevity(judged: Judged) -> float:
    print("what it prints is no answer")
    return -judged.tokens / 10

async def right(judged):
    await asyncio.sleep(0)
    return judged.verdict == judged.label

def ranks(group):
    return sorted(range(len(group)), key=lambda index: group[index].tokens)

def read(judged):
    return float(len(judged.question) + len(judged.response_a) + len(judged.response_b))

def raises(judged):
    raise ValueError(f"no reward for sample {judged.sample}")

def hangs(judged):
    if judged.sample == 1:
        subprocess.Popen(["sleep", "600"])
        with open(judged.text, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    return 1.0

def nan(judged):
    return float("nan")

def text(judged):
    return "1.0"

def nothing(judged):
    pass

def few(group):
    return [1.0]

def one(group):
    return 1.0

def eats(judged):
    return float(len(bytearray(3 * 2**30)))

def dies(judged):
    os._exit(3)

def pid(judged):
    return os.getpid()

here = 3
"""


@pytest.fixture(autouse=True)
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of reward functions that can be imported by functions' processes."""
    (tmp_path / "own_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def judged(sample: int = 0, tokens: int = 3, text: str = "") -> Judged:
    return Judged(text, "A", "A", "q", "a", "b", tokens, False, "p/chosen_first", "p", "chosen_first", "chat", sample)


def run(name: str, work: Any, **bounds: Any) -> Any:
    """What ``work(pool)`` answers; every process has ended afterwards."""

    async def inside() -> Any:
        pool = FunctionPool(RewardFunction(f"own_rewards.{name}", **bounds))
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(inside())


def one(name: str, item: Judged | None = None, **bounds: Any) -> list[float]:
    return run(name, lambda pool: pool.call([item or judged()]), **bounds)


@pytest.mark.slow
def test_a_function_may_be_plain_async_or_of_a_group() -> None:
    assert one("brevity") == [-0.3]
    assert one("right") == [1.0]
    group = [judged(0, 9), judged(1, 4), judged(2, 6)]
    assert run("ranks", lambda pool: pool.call(group), sees="group") == [1, 2, 0]
    assert one("read") == [3.0]


@pytest.mark.parametrize(
    ("name", "sees", "cause", "detail"),
    [
        ("raises", "trace", "error", "ValueError: no reward for sample 0"),
        ("nan", "trace", "not_finite", "got nan"),
        ("text", "trace", "wrong_type", "got str"),
        ("nothing", "trace", "wrong_type", "got NoneType"),
        ("few", "group", "wrong_length", "2 numbers expected, one per trace, got 1"),
        ("one", "group", "wrong_type", "a list of 2 numbers expected, got float"),
        ("eats", "trace", "memory", "memory_gib"),
        ("dies", "trace", "died", "ended with status 3"),
        ("here", "trace", "load", "is a int, not a function"),
        ("missing", "trace", "load", "has no attribute 'missing'"),
    ],
)
def test_every_way_to_fail_has_its_cause(name: str, sees: str, cause: str, detail: str) -> None:
    items = [judged(0), judged(1)] if sees == "group" else [judged()]
    with pytest.raises(FunctionError, match=detail) as caught:
        run(name, lambda pool: pool.call(items), sees=sees, memory_gib=1.0)
    assert caught.value.cause == cause


@pytest.mark.slow
def test_a_function_that_hangs_is_killed_with_what_it_started_and_the_next_call_works(tmp_path: Path) -> None:
    async def work(pool: FunctionPool) -> None:
        with pytest.raises(FunctionError, match=r"hangs gave no answer in 2 s") as caught:
            await pool.call([judged(1, text=str(tmp_path / "pid"))])
        assert caught.value.cause == "timeout"
        assert await pool.call([judged(0)]) == [1.0]

    run("hangs", work, deadline=2.0)
    group = int((tmp_path / "pid").read_text())
    # Killed processes may take a moment to be reaped; none of the group is alive in the meantime.
    assert _living(group) == []


def _living(group: int) -> list[int]:
    living = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                living.append(int(path.name))
    return living


@pytest.mark.slow
def test_a_process_is_kept_after_an_error_and_calls_run_side_by_side() -> None:
    async def work(pool: FunctionPool) -> tuple[list[float], list[list[float]]]:
        first = await pool.call([judged()])
        return first, await asyncio.gather(*(pool.call([judged(index)]) for index in range(4)))

    first, more = run("pid", work)
    assert [first] * 4 == more
    _, both = run("pid", work, processes=2)
    assert len({pid for [pid] in both}) == 2


def test_a_process_ends_when_nobody_asks_any_more() -> None:
    async def work(pool: FunctionPool) -> int:
        [pid] = await pool.call([judged()])
        [process] = pool._processes
        assert process.stdin is not None
        process.stdin.close()
        return int(pid) if await asyncio.wait_for(process.wait(), 30) < 0 else 0

    pid = run("pid", work)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def trace(sample: int, text: str, length: int) -> Trace:
    return Trace(
        "p/chosen_first",
        sample,
        np.arange(length, dtype=np.int32),
        np.zeros(length, np.float32),
        text,
        "stop",
        np.zeros(length, np.int32),
    )


def verified(rule: RewardRule, functions: dict[str, RewardFunction]) -> tuple[list[Any], list[ScoredGroup]]:
    """Three traces, scored and then compared."""
    prompt = Prompt("p/chosen_first", "p", "chosen_first", "A", "chat", (1, 2))
    shown = Shown("question", "left", "right")
    requests = [
        VerificationRequest(
            trace(index, f"<answer>[[{side}]]</answer>", 10 + index), "A", "p", prompt.order, "chat", shown
        )
        for index, side in enumerate("ABA")
    ]

    async def inside() -> tuple[list[Any], list[ScoredGroup]]:
        verifier = RewardVerifier(rule, functions)
        try:
            await verifier.ready()
            scored = await verifier.score(requests)
            traces = tuple(item for item in scored if isinstance(item, ScoredTrace))
            unscored = tuple(item for item in scored if isinstance(item, RewardFailure))
            return scored, await verifier.compare([ScoredGroup(prompt, traces, (), unscored)], [shown])
        finally:
            await verifier.close()

    coroutine: Coroutine[Any, Any, Any] = inside()
    return asyncio.run(coroutine)


@pytest.mark.slow
def test_functions_are_components_with_weights_logged_on_their_own() -> None:
    functions = {"short": RewardFunction("own_rewards.brevity"), "place": RewardFunction("own_rewards.ranks", "group")}
    rule = RewardRule({"verdict": 1.0, "short": 0.5, "place": 0.0})
    _, [group] = verified(rule, functions)
    assert [dict(item.parts) for item in group.traces] == [
        {"verdict": 1.0, "short": -1.0, "place": 0.0},
        {"verdict": -1.0, "short": -1.1, "place": 1.0},
        {"verdict": 1.0, "short": -1.2, "place": 2.0},
    ]
    assert [item.reward for item in group.traces] == pytest.approx([0.5, -1.55, 0.4])


@pytest.mark.slow
def test_a_failed_function_leaves_no_reward(tmp_path: Path) -> None:
    functions = {"mine": RewardFunction("own_rewards.raises")}
    scored, [group] = verified(RewardRule({"verdict": 1.0, "mine": 1.0}), functions)
    assert [item.cause for item in scored] == ["error"] * 3
    assert group.traces == ()
    assert [(item.sample, item.component) for item in group.unscored] == [(0, "mine"), (1, "mine"), (2, "mine")]
    _, [group] = verified(
        RewardRule({"verdict": 1.0, "mine": 1.0}), {"mine": RewardFunction("own_rewards.few", "group")}
    )
    assert group.traces == ()
    assert [item.cause for item in group.unscored] == ["wrong_length"] * 3


def test_a_function_that_cannot_be_loaded_is_refused_at_the_start() -> None:
    with pytest.raises(RewardError, match=r"'mine': own_rewards\.bravity cannot be loaded: AttributeError.*PYTHONPATH"):
        verified(RewardRule({"mine": 1.0}), {"mine": RewardFunction("own_rewards.bravity")})
