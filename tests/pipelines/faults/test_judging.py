"""A lost or doubled prompt, a wrong version, another accuracy: each is found, and nothing else is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipelines.faults.judging import accuracy_problems, history_of, history_problems, metrics_problems

ROWS = [
    {"step": step, "pair_id": f"rl-{pair}", "order": order}
    for step, pair in ((1, 7), (1, 3), (2, 5))
    for order in ("chosen_first", "chosen_second")
    for _ in range(4)
]
LAST = {"step": 2, "pair_id": "rl-5", "order": "chosen_second"}


def test_the_history_of_rows() -> None:
    assert history_of(ROWS)[2] == Counter({"rl-5/chosen_first": 4, "rl-5/chosen_second": 4})
    assert history_problems(history_of(ROWS), history_of(ROWS)) == []


def test_where_prompts_of_a_step_come_in_another_order_nothing_is_wrong() -> None:
    assert history_problems(history_of(reversed(ROWS)), history_of(ROWS)) == []


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        (ROWS[:-1], ["1 prompts lost: rl-5/chosen_second (3 traces, not 4)"]),
        ([row for row in ROWS if row["pair_id"] != "rl-3"], [
            "2 prompts lost: rl-3/chosen_first (0 traces, not 4), rl-3/chosen_second (0 traces, not 4)"
        ]),
        ([*ROWS, LAST], ["1 prompts trained on too often: rl-5/chosen_second (5 traces, not 4)"]),
        ([*ROWS, *[LAST | {"pair_id": "rl-7", "order": "chosen_first"}] * 4], [
            "1 prompts trained on too often: rl-7/chosen_first (8 traces, not 4)"
        ]),
        ([*ROWS[:-4], *[LAST | {"pair_id": "rl-9"}] * 4], [
            "1 prompts lost: rl-5/chosen_second (0 traces, not 4)",
            "1 prompts trained on too often: rl-9/chosen_second (4 traces, not 0)",
        ]),
    ],
    ids=["a trace", "an item", "a trace more", "a prompt in two steps", "another prompt"],
)  # fmt: skip
def test_what_is_lost_or_doubled_is_named(rows: list[dict[str, Any]], problems: list[str]) -> None:
    assert history_problems(history_of(rows), history_of(ROWS)) == problems


def test_steps_that_are_not_there_or_should_not_be() -> None:
    late = [row if row["step"] == 1 else row | {"step": 3} for row in ROWS]
    assert history_problems(history_of(late), history_of(ROWS)) == [
        "steps without traces: 2",
        "steps that there should not be: 3",
    ]


def lines(*changes: tuple[int, str, float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": step, "metrics": {"weight_version": step, "generation_failures": 0.0, "logprob_difference_max": 1e-5}}
        for step in (1, 2, 3)
    ]
    for step, name, value in changes:
        rows[step - 1]["metrics"][name] = value
    return rows


def test_lines_of_metrics() -> None:
    assert metrics_problems(lines(), 3) == []
    assert metrics_problems(lines(), 4) == ["metrics.jsonl should have the steps 1 to 4 once each, but has 1, 2, 3"]
    twice = [*lines()[:2], *lines()[1:]]
    assert metrics_problems(twice, 3) == ["metrics.jsonl should have the steps 1 to 3 once each, but has 1, 2, 2, 3"]
    assert metrics_problems(lines((2, "weight_version", 1)), 3) == ["step 2 published weight version 1"]
    assert metrics_problems(lines((3, "generation_failures", 8.0)), 3) == ["step 3 lost 8 traces"]
    for difference in (0.2, float("nan")):
        [problem] = metrics_problems(lines((1, "logprob_difference_max", difference)), 3)
        assert problem.startswith("step 1: log-probabilities of engine and learner differ by ")


def test_accuracies_apart() -> None:
    assert accuracy_problems(0.61, 0.70, 0.1) == accuracy_problems(0.79, 0.70, 0.1) == []
    assert accuracy_problems(0.59, 0.70, 0.1) == [
        "held-out accuracy 0.590 is more than 0.1 from the undisturbed run's 0.700"
    ]
