"""What died is told with what follows, and may come back only so often; a node is one thing, whatever was on it."""

from __future__ import annotations

import pytest

from actors.restarts import Faults, RestartsExhausted, StartTime


def test_all_that_dies_with_a_node_is_one_restart() -> None:
    told: list[str] = []
    faults = Faults(2, 3600.0, told.append)
    for who in ("rollout worker 0", "rollout worker 1", "learner rank 0"):
        faults.noticed("engine", who, "died: its node has died", "it is restarted", node="ab12")
    faults.noticed("engine", "rollout worker 2", "died: its node has died", "it is restarted", node="cd34")
    with pytest.raises(RestartsExhausted, match=r"^rollout worker 3 died\. That was one fault too many: 2 restarts"):
        faults.noticed("engine", "rollout worker 3", "died", "it is restarted")
    assert len(told) == 4
    assert faults.metrics() == {"restarts/engine": 5.0}


def test_nodes_without_a_name_are_told_apart() -> None:
    faults = Faults(1, 3600.0, lambda line: None)
    faults.noticed("engine", "rollout worker 0", "died", "it is restarted", node="")
    with pytest.raises(RestartsExhausted):
        faults.noticed("engine", "rollout worker 1", "died", "it is restarted", node="")


def test_a_step_whose_node_is_lost_again_is_no_poison() -> None:
    faults = Faults(10, 3600.0, lambda line: None)
    for times in (1, 2, 3, 4):
        faults.noticed("learner", "learner rank 0", "died", "others start", times, "step 7 of rl", node=f"{times}")
    with pytest.raises(RestartsExhausted, match="fault 3 in step 7 of rl"):
        faults.noticed("learner", "learner rank 0", "died", "others start", 3, "step 7 of rl")


def test_how_long_a_start_may_take_follows_from_the_first() -> None:
    start = StartTime(300.0, 30.0)
    assert start.seconds() == 300.0, "nothing has started yet"
    start.took(12.0)
    assert start.seconds() == 30.0 + 2 * 12.0
    start.took(40.0)
    assert start.seconds() == 54.0, "the first is the measure: later ones had others beside them"
    start.late = 1
    assert start.seconds() == 108.0
    start.late = 3
    assert start.seconds() == 300.0, "never longer than any start may take"
    start.took(20.0)
    assert start.seconds() == 54.0
