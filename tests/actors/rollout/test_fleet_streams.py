"""The streams of several workers as one: everything arrives, and whatever ends a stream ends the wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import wait_until
from rollout_actors import UPDATE, workers

from actors.deadlines import ActorFailed, DeadlineExceeded, NamedActor
from actors.messages import Prompt, Sampling, Trace
from actors.rollout.fleet import RolloutFleet
from actors.rollout.roster import WeightsDiffer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def prompts(count: int) -> list[Prompt]:
    return [Prompt(str(index), str(index), "chosen_first", "A", "d", (index,)) for index in range(count)]


def started(actors: Sequence[NamedActor], timeout: float = 60.0) -> RolloutFleet:
    """A fleet whose processes are up: its ``timeout`` is for answers."""
    fleet = RolloutFleet(actors, timeout)
    fleet.start(0, 120.0)
    return fleet


def generate(fleet: RolloutFleet, count: int, samples: int = 2) -> list[Trace]:
    async def collect() -> list[Any]:
        return [item async for ready in fleet.generate(prompts(count), Sampling(samples)) for item in ready]

    return asyncio.run(collect())


def test_every_sample_of_every_prompt_arrives_once(tmp_path: Path) -> None:
    fleet = started(workers(tmp_path, "", ""))
    traces = generate(fleet, 5, samples=3)
    assert sorted((trace.prompt_uid, trace.sample) for trace in traces) == [
        (str(prompt), sample) for prompt in range(5) for sample in range(3)
    ]
    assert fleet._traffic.in_flight == [0, 0]


def test_a_worker_that_raises_is_named_with_its_log_and_the_cause(tmp_path: Path) -> None:
    fleet = started(workers(tmp_path, "", "raise"))
    with pytest.raises(
        ActorFailed, match=r"rollout worker 1 \(log: .*rollout-1\.log\) failed: ValueError: no more ink"
    ):
        generate(fleet, 4)
    assert fleet._traffic.in_flight == [0, 0], "what never came is owed no more"


def test_a_worker_that_brings_nothing_is_late_and_leaves_its_stacks(tmp_path: Path) -> None:
    fleet = started(workers(tmp_path, "hang"), timeout=2.0)
    with pytest.raises(DeadlineExceeded, match=r"a trace of 2 prompts; no answer from rollout worker 0 .*its stacks$"):
        generate(fleet, 2)
    assert "most recent call first" in (tmp_path / "rollout-0.log").read_text()


def test_a_stream_that_is_given_up_ends_in_its_worker(tmp_path: Path) -> None:
    fleet = started(workers(tmp_path, "hang"))

    async def leave() -> None:
        stream = fleet.generate(prompts(2), Sampling())
        assert len(await anext(stream)) == 1
        await stream.aclose()

    asyncio.run(leave())
    assert fleet._traffic.in_flight == [0]
    wait_until(lambda: "given up" in (tmp_path / "rollout-0.log").read_text(), 60, "the worker to be told")


def test_an_error_of_the_reader_itself_ends_the_wait(tmp_path: Path) -> None:
    """Of no actor, so neither an actor's failure nor a deadline: before, nobody was told of it."""
    fleet = started(workers(tmp_path, ""))
    unsendable = Prompt("p", "p", "chosen_first", "A", "d", ((token for token in ()),))  # type: ignore[arg-type]

    async def collect() -> None:
        async for _ in fleet.generate([unsendable], Sampling()):
            pass

    with pytest.raises(TypeError, match="generator"):
        asyncio.run(asyncio.wait_for(collect(), 60))


def test_weights_that_all_engines_hold_are_loaded(tmp_path: Path) -> None:
    fleet = started(workers(tmp_path, "", ""))
    assert fleet.as_loaded
    assert fleet.update_weights(UPDATE) == 0.25
    assert not fleet.as_loaded


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("old version", "holds weight version 0 with checksum 0x0000000b, the learners published version 1 with"),
        ("other bytes", "holds weight version 1 with checksum 0x0000000c, the learners published version 1 with"),
    ],
)
def test_an_engine_that_holds_something_else_is_named_with_both_versions(tmp_path: Path, fault: str, says: str) -> None:
    fleet = started(workers(tmp_path, "", fault))
    with pytest.raises(WeightsDiffer, match=rf"rollout worker 1 \(log: .*\) {says} 0x0000000b"):
        fleet.update_weights(UPDATE)
