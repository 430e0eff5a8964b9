"""A verifier that dies is started again, and its callers have their scores."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
from deaths import kill_actor

from actors.deadlines import NamedActor
from actors.messages import ScoredTrace, Trace, VerificationRequest
from actors.restarts import Faults, RestartsExhausted
from actors.verifier.actor import RewardVerifier
from actors.verifier.revived import RevivedVerifier

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def batch() -> list[VerificationRequest]:
    """Right, wrong, unreadable."""
    one, zero = np.ones(1, np.int32), np.zeros(1, np.float32)
    return [
        VerificationRequest(Trace("p", 0, one, zero, text, "stop", one), label, "p", "chosen_first", "chat")
        for text, label in cast(
            Any, (("<answer>[[A]]</answer>", "A"), ("<answer>[[A]]</answer>", "B"), ("neither", "A"))
        )
    ]


def verifier(folder: Path) -> NamedActor:
    """A real one, without functions of users."""
    handle: Any = ray.remote(RewardVerifier).options(num_cpus=0)
    log = str(folder / "verifier.log")
    made = NamedActor(handle.remote(None, None, log), "the reward verifier", log, "verifier")
    ray.get(made.handle.ready.remote(), timeout=120)
    return made


def revived(folder: Path, most: int = 10) -> tuple[RevivedVerifier, Faults]:
    faults = Faults(most, 3600.0)
    return RevivedVerifier(verifier(folder), lambda dead: verifier(folder), lambda _: None, faults), faults


def rewards(answers: list[Any]) -> list[float]:
    assert all(isinstance(item, ScoredTrace) for item in answers)
    return [item.reward for item in answers]


def test_what_was_on_its_way_is_scored_by_the_next(tmp_path: Path) -> None:
    """Many calls at once, of which each may come before, at or after the death: one restart, and every trace scored."""
    scoring, faults = revived(tmp_path)

    async def run() -> list[list[float]]:
        calls = [asyncio.ensure_future(scoring.score.remote(batch())) for _ in range(20)]
        ray.kill(scoring.actor.handle)
        calls += [asyncio.ensure_future(scoring.score.remote(batch())) for _ in range(20)]
        return [rewards(answers) for answers in await asyncio.gather(*calls)]

    assert asyncio.run(asyncio.wait_for(run(), 120)) == [[1.0, -1.0, -1.0]] * 40
    assert [(fault.kind, fault.who, fault.back is not None) for fault in faults.seen] == [
        ("verifier", "the reward verifier", True)
    ]


def test_one_death_too_many_ends_the_run(tmp_path: Path) -> None:
    scoring, _ = revived(tmp_path, most=0)
    kill_actor(scoring.actor.handle)
    with pytest.raises(RestartsExhausted, match=r"^the reward verifier died: .*: 0 restarts within 3600 s are allowed"):
        asyncio.run(scoring.score.remote(batch()))


def test_a_mistake_in_what_is_sent_is_no_death(tmp_path: Path) -> None:
    scoring, faults = revived(tmp_path)
    with pytest.raises(Exception, match="has no attribute"):
        asyncio.run(scoring.score.remote(["no request"]))
    assert faults.seen == []
