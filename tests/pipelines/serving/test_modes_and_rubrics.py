"""Ratings, orders of several responses and rubrics through HTTP, with scripted engines in place of real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scripted_app import LIMITS, PAIR, QWEN, refused
from scripted_engines import RULE, TEMPLATE, ScriptedEngines

from pipelines.judgment.judging import EngineJudge
from pipelines.judgment.modes import mode_templates
from pipelines.serving.app import build_app
from pipelines.serving.service import Service


def moded(script: Any, modes: Any = None) -> TestClient:
    engines = ScriptedEngines(QWEN, script)
    judge = EngineJudge(engines, TEMPLATE, QWEN, "judge", "w", RULE, modes, mode_templates("tiny"))
    return TestClient(build_app(Service(judge, LIMITS), ()), raise_server_exceptions=False)


def test_a_rating_and_an_order_in_one_prompt() -> None:
    rating = moded(lambda text, vote: "<eval>good</eval><answer>[[7]]</answer>")
    body = {"question": "q", "response": "x"}
    answer = rating.post("/v1/score", json=body).json()
    assert (answer["rating"], answer["score"], answer["scale"]) == (7.0, pytest.approx(6 / 9), [1, 10])
    assert answer["rationale"]["evaluation"] == "good"
    answer = rating.post("/v1/score", json={**body, "votes": 3, "temperature": 1}).json()
    assert [vote["rating"] for vote in answer["votes"]] == [7, 7, 7]
    # The better response is named wherever it stands.
    order = moded(lambda text, vote: f"<answer>[[{'B > A' if 'B good' in text else 'A > B'}]]</answer>")
    ranking = order.post("/v1/rank", json={"question": "q", "responses": ["bad", "good"], "method": "listwise"}).json()
    assert (ranking["ranking"], ranking["calls"]) == ([1, 0], 2)


def test_a_rating_that_cannot_be_read_is_none_and_counted() -> None:
    answer = moded(lambda text, vote: "<answer>[[A]]</answer>").post(
        "/v1/score", json={"question": "q", "response": "x"}
    )
    assert answer.status_code == 200
    assert (answer.json()["rating"], answer.json()["failures"]) == (None, {"none_found": 1})
    broken = moded(lambda text, vote: None).post("/v1/score", json={"question": "q", "response": "x"})
    refused(broken, 503, "engine_error")


def test_a_mode_that_the_judge_was_not_trained_for_is_refused() -> None:
    pairwise = moded(lambda text, vote: "<answer>[[7]]</answer>", ("pairwise",))
    message = refused(pairwise.post("/v1/score", json={"question": "q", "response": "x"}), 422, "mode_unsupported")
    assert "was not trained for mode pointwise, only for pairwise" in message
    lists = {"question": "q", "responses": ["x", "y"], "method": "listwise"}
    refused(pairwise.post("/v1/rank", json=lists), 422, "mode_unsupported")
    # The server goes on.
    assert pairwise.get("/health").status_code == 200
    rating = moded(lambda text, vote: "<answer>[[7]]</answer>", ("pointwise",))
    for body in (PAIR, {**PAIR, "stream": True}):
        refused(rating.post("/v1/compare", json=body), 422, "mode_unsupported")
    refused(rating.post("/v1/reward", json={"prompt": "q", "responses": ["x", "y"]}), 422, "mode_unsupported")


def test_two_responses_are_compared_by_a_rubric() -> None:
    template = replace(TEMPLATE, rubric="by {rubric}")
    engines = ScriptedEngines(QWEN, lambda text, vote: f"<answer>[[{'A' if 'by {kind}' in text else 'B'}]]</answer>")
    judge = EngineJudge(engines, template, QWEN, "judge", "w", replace(RULE, orders=("a_first",)))
    http = TestClient(build_app(Service(judge, LIMITS), ()), raise_server_exceptions=False)
    assert http.post("/v1/compare", json={**PAIR, "rubric": "{kind}"}).json()["winner"] == "a"
    assert http.post("/v1/compare", json=PAIR).json()["winner"] == "b", "of one request alone"
    assert "empty" in refused(http.post("/v1/compare", json={**PAIR, "rubric": " "}), 422, "invalid_request")


@pytest.mark.parametrize(
    ("route", "body", "said"),
    [
        ("compare", {**PAIR, "rubric": "be kind"}, "no part `rubric`"),
        ("score", {"question": "q"}, "required"),
        ("score", {"question": "q", "response": " "}, "empty"),
        ("score", {"question": "q", "response": "x", "rubric": "be kind"}, "no part `rubric`"),
        ("score", {"question": "q", "response": "x", "scale": 5}, "scale: no such field"),
        ("rank", {"question": "q", "responses": list("abcde"), "method": "listwise"}, "at most 4 together"),
        ("rank", {"question": "q", "responses": ["a", "b"], "method": "elo"}, "listwise"),
    ],
)
def test_what_cannot_be_rated_or_listed_is_refused(route: str, body: Any, said: str) -> None:
    assert said in refused(moded(lambda text, vote: "").post(f"/v1/{route}", json=body), 422, "invalid_request")
