"""What is done about which failure, as docs/faults.md says it; and how many restarts there may be."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deadlines import NamedActor, failure
from actors.failures import KINDS, PROMPT_DEATHS, REQUEST_TRIES, STEP_DEATHS, RestartBudget, answer_to, kind_of
from actors.rollout.errors import EngineDied, EngineError

DOCS = Path(__file__).parents[2] / "docs" / "faults.md"


def documented() -> dict[str, list[str]]:
    """Kind -> answers: the first time, at the limit of its kind, and without restarts left."""
    rows = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] in KINDS and len(cells) == 5:
            rows[cells[0]] = cells[2:]
    return rows


def test_the_table_of_the_docs_is_the_function() -> None:
    limits = {"request": REQUEST_TRIES, "engine": PROMPT_DEATHS, "learner": STEP_DEATHS}
    assert documented() == {
        kind: [answer_to(kind, 1), answer_to(kind, limits.get(kind, 99)), answer_to(kind, 1, restarts_left=False)]
        for kind in KINDS
    }


def test_limits_are_reached_exactly() -> None:
    assert [answer_to("request", times) for times in (1, 2)] == ["ask again", "count it"]
    assert [answer_to("engine", times) for times in (1, 3, 4)] == ["restart it", "restart it", "set its prompt aside"]
    assert [answer_to("learner", times) for times in (1, 2, 3)] == ["restart it", "restart it", "stop"]


def test_a_class_says_its_kind_and_no_other_is_guessed() -> None:
    assert kind_of(EngineDied("gone")) == "engine"
    assert kind_of(EngineError("weights differ")) is None
    assert kind_of(ValueError("a mistake")) is None


def test_an_error_keeps_its_kind_through_a_remote_call() -> None:
    from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

    worker = NamedActor(None, "rollout worker 0", None, "engine")
    raised = RayTaskError("generate", "Traceback ...", EngineDied("gone"))
    assert failure(raised, "a trace", worker).kind == "engine"
    assert failure(RayTaskError("generate", "Traceback ...", ValueError("ink")), "a trace", worker).kind is None
    assert failure(ActorDiedError(), "a trace", worker).kind == "engine"
    node = RayActorError(error_msg="The actor died because its node has died. Node Id: 12ab")
    assert failure(node, "a trace", worker).kind == "node"
    assert failure(ActorDiedError(), "a trace", NamedActor(None, "a stranger")).kind is None


@given(st.lists(st.floats(0.0, 50.0), max_size=40), st.integers(0, 5), st.floats(0.5, 60.0))
def test_no_window_has_more_restarts_than_are_allowed(gaps: list[float], most: int, window: float) -> None:
    budget, moments = RestartBudget(most, window), list(itertools.accumulate(gaps))
    taken = [now for now in moments if budget.take(now)]
    for start in taken:
        assert sum(start <= now < start + window for now in taken) <= most
    for now in set(moments) - set(taken):
        assert sum(now - window < at <= now for at in taken) == most, "refused only where there were as many"


@pytest.mark.parametrize("most", [0, 2])
def test_a_window_that_has_passed_allows_as_many_again(most: int) -> None:
    budget = RestartBudget(most, 10.0)
    assert [budget.take(now) for now in (0.0, 1.0, 2.0, 10.0, 10.5, 11.0)] == (
        [True, True, False, True, False, True] if most else [False] * 6
    )
