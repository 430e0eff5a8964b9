"""Benchmarks judged through a local OpenAI-compatible server: figures, cost, resuming, budgets, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from teacher_server import Reply, TeacherServer, sent_text

from pipelines.config import ConfigError
from pipelines.config.compose import load_config
from pipelines.data.schema import write_pairs
from pipelines.data.tiny_tasks import generate_items
from pipelines.endpoints.failures import TeacherError
from pipelines.evaluate import command
from pipelines.loop.rollouts import EvaluationFailed

pytestmark = pytest.mark.slow

PAIRS = 6
Evaluate = Callable[..., Path]


def always_a(body: dict[str, Any], seen: int) -> Reply:
    """A judge that sees only the position."""
    return Reply("<answer>[[A]]</answer>", model="judge-1")


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Judge a file of pairs through the server; returns the evaluation's folder."""
    rows = [{"id": f"p{n}", "domain": "chat", "prompt": f"question {n}", "chosen": "good", "rejected": "bad one"}
            for n in range(PAIRS)]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(url: str, *overrides: str) -> Path:
        command(
            load_config(
                [
                    *("run=r", f"output_root={tmp_path}", "tracking=off", "evaluate.model=openai:judge-1"),
                    *(f"evaluate.base_url={url}", f"evaluate.benchmarks=['{tmp_path / 'mine.jsonl'}']"),
                    *("evaluate.endpoint.backoff=0.001", "evaluate.endpoint.input_price=1.0"),
                    *("evaluate.endpoint.output_price=1000000.0", *overrides),
                ]
            )
        )
        return tmp_path / "r" / "evaluations" / "openai_judge-1"

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_orders_the_same_figures_and_the_cost(evaluate: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    with TeacherServer(always_a) as server:
        folder = evaluate(server.url)
    assert len(server.bodies) == 2 * PAIRS
    assert {body["temperature"] for body in server.bodies} == {0.0}
    assert {body["max_tokens"] for body in server.bodies} == {64}
    results = json.loads((folder / "results.json").read_text())
    found = results["benchmarks"]["mine"]
    rates = {name: found["overall"][name]["value"] for name in ("accuracy", "flip_rate", "share_a", "parse_rate")}
    assert rates == {"accuracy": 0.5, "flip_rate": 1.0, "share_a": 1.0, "parse_rate": 1.0}
    assert (results["model"], found["judgments"]) == ("openai:judge-1", 2 * PAIRS)
    # One token per judgment, at a million for a million; prompts cost nearly nothing.
    prompts = sum(row["prompt_tokens"] for row in lines(folder / "judgments.jsonl"))
    assert found["tokens"] == {"prompt_tokens": prompts, "tokens": 2 * PAIRS}
    assert found["cost"] == pytest.approx(2 * PAIRS + prompts / 1e6)
    assert f"cost {2 * PAIRS:.2f}" in capsys.readouterr().out
    assert '"cost":12.0' in (folder / "report.html").read_text()


def test_results_are_there_in_the_form_of_reward_bench(evaluate: Evaluate) -> None:
    """As its scripts write them: a mapping of subsets, and columns with the model beside them."""
    with TeacherServer(lambda body, seen: Reply("<answer>[[B]]</answer>", model="judge-1")) as server:
        folder = evaluate(server.url, "evaluate.orders=chosen_second") / "reward_bench_form"
    about = {"model": "openai:judge-1", "model_type": "Generative RM"}
    assert json.loads((folder / "mine.json").read_text()) == {**about, "chat_template": None, "chat": 1.0}
    scores = json.loads((folder / "mine-scores.json").read_text())
    assert {key: scores.pop(key) for key in about} == about
    assert scores["results"] == [1.0] * PAIRS
    assert (scores["id"], scores["subset"]) == ([f"p{n}" for n in range(PAIRS)], ["chat"] * PAIRS)
    asked = {"role": "user", "content": "question 2"}
    assert scores["text_rejected"][2] == [asked, {"role": "assistant", "content": "bad one"}]
    assert all(len(column) == PAIRS for column in scores.values())


def test_what_was_answered_is_never_asked_again(evaluate: Evaluate) -> None:
    with TeacherServer(always_a) as server:
        folder = evaluate(server.url)
        whole = sorted(map(json.dumps, lines(folder / "judgments.jsonl")))
        for kept in (0, 5, 2 * PAIRS):
            log = (folder / "judgments.jsonl").read_text().splitlines(keepends=True)
            (folder / "judgments.jsonl").write_text("".join(log[:kept]))
            evaluate(server.url)
            assert sorted(map(json.dumps, lines(folder / "judgments.jsonl"))) == whole
        assert len(server.bodies) == 2 * PAIRS
        evaluate(server.url, "overwrite=true")
        assert len(server.bodies) == 4 * PAIRS
    # What was paid for is kept aside.
    assert len(lines(folder / "journal-1.jsonl")) == 2 * PAIRS


def test_without_benchmarks_the_held_out_pairs_are_judged(evaluate: Evaluate, tmp_path: Path) -> None:
    pairs = generate_items(0, {"heldout": 4})["heldout"]
    write_pairs(pairs, tmp_path / "r" / "data" / "heldout.parquet")
    with TeacherServer(always_a) as server:
        folder = evaluate(server.url, "evaluate.benchmarks=[]")
    assert {row["comparison"] for row in lines(folder / "judgments.jsonl")} == {pair.id for pair in pairs}
    assert len(server.bodies) == 8


def test_a_spent_budget_stops_and_a_larger_one_goes_on(evaluate: Evaluate) -> None:
    with TeacherServer(always_a) as server:
        tight = ("evaluate.endpoint.concurrency=1", "evaluate.budget_cost=66.5")
        with pytest.raises(
            EvaluationFailed, match=r"judgments are missing \(the budget is spent .*raise evaluate\.budget"
        ):
            evaluate(server.url, *tight)
        # A judgment may cost 64; each that was given cost 1.
        assert len(server.bodies) == 3
        evaluate(server.url)
        assert len(server.bodies) == 2 * PAIRS


def test_trouble_is_asked_again_and_a_refusal_is_unread(evaluate: Evaluate) -> None:
    def script(body: dict[str, Any], seen: int) -> Reply:
        if "question 3" in sent_text(body):
            return Reply(status=400, text="content filter")
        return Reply(status=500) if seen == 1 else always_a(body, seen)

    with TeacherServer(script) as server:
        found = json.loads((evaluate(server.url) / "results.json").read_text())["benchmarks"]["mine"]
    assert (found["unread"], found["judgments"]) == ({"refused": 2}, 2 * PAIRS)
    assert found["overall"]["parse_rate"]["value"] == pytest.approx(10 / 12)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(status=400, text="no such parameter"), EvaluationFailed, r"12 of 12 judgments are missing \(refused"),
        (Reply(status=401), TeacherError, r"^evaluate\.endpoint \(judge-1 at .*key refused.*OPENAI_API_KEY"),
        (Reply(status=404), TeacherError, r"Check evaluate\.model and evaluate\.base_url"),
        (Reply("x", model="other"), TeacherError, r"correct evaluate\.model or evaluate\.base_url, or accept it with "
                                                  r"evaluate\.endpoint\.answers_as=other"),
    ],
)  # fmt: skip
def test_an_endpoint_that_judges_nothing_ends_with_one_clear_line(
    evaluate: Evaluate, reply: Reply, error: type[Exception], message: str
) -> None:
    with TeacherServer(lambda body, seen: reply) as server, pytest.raises(error, match=message):
        evaluate(server.url, "evaluate.endpoint.give_up_after=100", "evaluate.endpoint.attempts=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluate.base_url=http://h/v1"],
            r"only read for a model behind an endpoint: write evaluate\.model=openai:NAME",
        ),
        (["evaluate.model='openai:'"], r"names no model: write a folder, a hub name, or openai:NAME"),
        (["evaluate.model=''"], r"evaluate\.model='' names no model"),
        (["evaluate.model=openai:x", "evaluate.endpoint.model=y"], r"evaluate\.endpoint\.model is not read"),
    ],
)
def test_settings_that_name_no_endpoint_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["recipe=tiny", *overrides])
