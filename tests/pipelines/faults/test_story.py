"""What became of each fault, from lines that a run's log really has, and from the count of its steps."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.faults.draws import DrawnFault
from pipelines.faults.story import Said, Story, as_json, row_of, said_in, table

PREFIX = "2026-11-29 14:00:00,123 WARNING pipelines.job.watch: "


def drawn(action: Any, part: Any, member: int = 0, shortly: float | None = None) -> DrawnFault:
    return DrawnFault(action, part, member, 3.5, shortly)


def test_lines_of_the_log() -> None:
    died = "rollout worker 0 died: its process was killed; it is restarted, others take its prompts"
    stuck = "learner rank 1 was stuck: it did not move for 30 s, and was killed; all ranks are restarted and go on"
    assert said_in(PREFIX + died) == Said("noticed", "rollout worker 0")
    assert said_in(PREFIX + stuck) == Said("noticed", "learner rank 1")
    assert said_in(PREFIX + "rollout worker 0 is back after 21.3 s, with weight version 4") == Said(
        "back", "rollout worker 0"
    )
    assert said_in(PREFIX + "the reward verifier is back after 2.0 s") == Said("back", "the reward verifier")
    for other in (
        "2026-11-29 14:00:00,123 INFO actors.monitor: rollout worker 0 has not moved for half of its 30 s",
        "2026-11-29 14:00:00,123 WARNING pipelines.loop: step 3: something else",
        PREFIX + "something else",
    ):
        assert said_in(other) is None


def test_an_engine_that_is_struck_is_told_from_another_engine() -> None:
    story = Story(steps=3)
    story.struck(drawn("kill", "engine core", 1), 100.0)
    story.said(Said("noticed", "rollout worker 0"), 101.0)
    story.said(Said("noticed", "rollout worker 1"), 101.5)
    story.said(Said("back", "rollout worker 1"), 120.0)
    [fault] = story.faults
    assert (fault.noticed, fault.back, fault.step, fault.lost_steps) == (101.5, 120.0, 3, 0)
    assert story.besides == ["rollout worker 0"], "one that nobody struck"
    assert story.open() == []


def test_learners_go_back_to_a_checkpoint() -> None:
    story = Story(steps=7)
    story.struck(drawn("stop", "learner rank", 1), 10.0)
    story.said(Said("noticed", "learner rank 0"), 40.0)
    story.said(Said("back", "learner rank 0"), 52.0)
    story.logged(4, 53.0)
    story.logged(5, 54.0)
    [fault] = story.faults
    assert (fault.noticed, fault.back, fault.lost_steps) == (40.0, 52.0, 3)


def test_a_killed_driver_is_back_with_its_next_step_and_ends_what_was_under_way() -> None:
    story = Story(steps=6)
    story.struck(drawn("kill", "engine core"), 10.0)
    story.struck(drawn("kill", "driver"), 12.0)
    assert story.waits_for_driver
    story.logged(4, 30.0)
    assert story.waits_for_driver, "it has only gone back to its checkpoint"
    story.logged(5, 33.0)
    engine, driver = story.faults
    assert not story.waits_for_driver
    assert (driver.noticed, driver.back, driver.lost_steps) == (12.0, 33.0, 2)
    assert (engine.back, engine.remark) == (33.0, "the driver was killed meanwhile")


def test_a_damaged_checkpoint_is_noticed_when_it_is_refused() -> None:
    story = Story(steps=9)
    story.struck(drawn("damage", "newest checkpoint"), 10.0)
    assert story.waits_for_driver
    assert story.faults[0].noticed is None
    story.said_by_its_end(31.0)
    story.logged(4, 60.0)
    story.logged(5, 62.0)
    assert (story.faults[0].noticed, story.faults[0].back, story.faults[0].lost_steps) == (31.0, 62.0, 5)


@pytest.mark.parametrize("part", ["raylet", "GCS"])
def test_rays_own_process_takes_the_driver_along_later(part: str) -> None:
    story = Story(steps=6)
    story.struck(drawn("kill", "engine core"), 8.0)
    story.struck(drawn("kill", part), 10.0)
    assert story.waits_for_driver
    assert [fault.noticed for fault in story.faults] == [None, None]
    story.logged(7, 11.0)
    assert story.waits_for_driver, "it ends a step before it ends"
    story.said_by_its_end(70.0)
    story.logged(5, 90.0)
    story.logged(6, 95.0)
    assert not story.waits_for_driver
    assert [(fault.noticed, fault.back, fault.lost_steps) for fault in story.faults] == [
        (70.0, 95.0, 0),
        (70.0, 95.0, 2),
    ]


def test_a_part_that_is_struck_again_while_it_comes_back() -> None:
    story = Story(steps=2)
    story.struck(drawn("kill", "engine core"), 10.0)
    story.said(Said("noticed", "rollout worker 0"), 11.0)
    story.struck(drawn("kill", "rollout worker", shortly=4.0), 14.0)
    story.said(Said("noticed", "rollout worker 0"), 15.0)
    story.said(Said("back", "rollout worker 0"), 40.0)
    assert [(fault.noticed, fault.back) for fault in story.faults] == [(11.0, 40.0), (15.0, 40.0)]


def test_the_table_and_the_records() -> None:
    story = Story(steps=3)
    story.struck(drawn("kill", "learner rank", 1), 10.0)
    story.said(Said("noticed", "learner rank 1"), 10.5)
    story.said(Said("back", "learner rank 1"), 30.0)
    story.logged(2, 31.0)
    story.struck(drawn("stop", "verifier", shortly=2.5), 40.0)
    rows = [row_of("seed-0", fault) for fault in story.faults]
    assert table(rows) == [
        "run     fault    victim          at step         noticed after  back after  lost work",
        "seed-0  kill -9  learner rank 1  3               0.5 s          20.0 s      1 step",
        "seed-0  SIGSTOP  verifier        2, 2.5 s later  -              -           0 steps; the run was over first",
    ]
    assert as_json(story.faults)[0] == {
        "action": "kill",
        "victim": "learner rank 1",
        "at": 3.5,
        "shortly": None,
        "step": 3,
        "noticed_after": 0.5,
        "back_after": 20.0,
        "lost_steps": 1,
        "remark": "",
    }
