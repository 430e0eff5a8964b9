"""Rows of the traces table: what stood on which side, who was right, and the columns reports read."""

from __future__ import annotations

import numpy as np
import pytest

from actors.messages import Order, Prompt, ScoredGroup, ScoredTrace, Side, Trace, Verdict
from pipelines.data.schema import Message, PreferencePair
from pipelines.evaluation.comparisons import JudgedComparison
from pipelines.loop.records import judgment_rows, question_text, trace_rows

PAIR = PreferencePair("p", "s", "Chat", (Message("user", "Name a prime."),), "seven", "nine")
COLUMNS = {
    *("stage", "step", "pair_id", "order", "domain", "question", "response_a", "response_b", "label", "sample"),
    *("text", "verdict", "cause", "reward", "tokens", "finish_reason", "min_version", "max_version"),
}
ORDERS: list[tuple[Order, Side, str, str]] = [
    ("chosen_first", "A", "seven", "nine"),
    ("chosen_second", "B", "nine", "seven"),
]


def test_question_text() -> None:
    assert question_text(PAIR) == "Name a prime."
    turns = (
        Message("system", "Be short."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    )
    several = PreferencePair("p", "s", "d", turns, "x", "y")
    assert question_text(several) == "system: Be short.\n\nuser: Hi\n\nassistant: Hello\n\nuser: Bye"


@pytest.mark.parametrize(("order", "label", "first", "second"), ORDERS)
def test_trace_rows(order: Order, label: Side, first: str, second: str) -> None:
    prompt = Prompt(f"p/{order}", "p", order, label, "Chat", (1, 2))
    traces = []
    for sample, verdict in enumerate((Verdict("A", None), Verdict(None, "none_found"))):
        ids = np.arange(3 + sample, dtype=np.int32)
        versions = np.array([4, *[5] * (2 + sample)], np.int32)
        trace = Trace(prompt.uid, sample, ids, np.zeros(len(ids), np.float32), f"text {sample}", "stop", versions)
        traces.append(ScoredTrace(trace, verdict, 0.25 * sample))
    rows = trace_rows("rl", 7, [ScoredGroup(prompt, tuple(traces))], {"p": PAIR})
    assert [set(row) for row in rows] == [COLUMNS, COLUMNS]
    assert rows[1] == {
        "stage": "rl",
        "step": 7,
        "pair_id": "p",
        "order": order,
        "domain": "Chat",
        "question": "Name a prime.",
        "response_a": first,
        "response_b": second,
        "label": label,
        "sample": 1,
        "text": "text 1",
        "verdict": None,
        "cause": "none_found",
        "reward": 0.25,
        "tokens": 4,
        "finish_reason": "stop",
        "min_version": 4,
        "max_version": 5,
    }
    assert (rows[0]["verdict"], rows[0]["cause"], rows[0]["tokens"]) == ("A", None, 3)
    # The better response stands on the side the label names, whatever the order.
    assert rows[0][f"response_{label.lower()}"] == PAIR.chosen


@pytest.mark.parametrize(("order", "label", "first", "second"), ORDERS)
@pytest.mark.parametrize("verdict", [Verdict("A", None), Verdict("B", None), Verdict(None, "both_found")])
def test_judgment_rows(order: Order, label: Side, first: str, second: str, verdict: Verdict) -> None:
    judged = JudgedComparison("p", order, label, "Chat", verdict, 12, "length", "what it wrote")
    (row,) = judgment_rows("before", 0, [judged], {"p": PAIR})
    assert set(row) == COLUMNS
    assert row["reward"] == (1.0 if verdict.side == label else -1.0)
    assert (row["response_a"], row["response_b"], row["label"]) == (first, second, label)
    assert (row["verdict"], row["cause"]) == (verdict.side, verdict.cause)
    assert (row["text"], row["tokens"], row["finish_reason"]) == ("what it wrote", 12, "length")


def test_rows_keep_the_order_of_groups_and_traces() -> None:
    pairs = {f"p{index}": PreferencePair(f"p{index}", "s", "d", PAIR.prompt, "x", "y") for index in range(3)}
    groups = []
    for pair_id in pairs:
        prompt = Prompt(f"{pair_id}/chosen_first", pair_id, "chosen_first", "A", "d", (1,))
        one = np.zeros(1, np.int32)
        traces = [Trace(prompt.uid, sample, one, one.astype(np.float32), "", "stop", one) for sample in range(2)]
        groups.append(ScoredGroup(prompt, tuple(ScoredTrace(trace, Verdict("B", None), -1.0) for trace in traces)))
    rows = trace_rows("rl", 1, groups, pairs)
    assert [(row["pair_id"], row["sample"]) for row in rows] == [(f"p{n}", s) for n in range(3) for s in range(2)]
