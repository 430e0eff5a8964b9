"""Held-out figures of ratings and lists, against cases worked by hand."""

from __future__ import annotations

from typing import Any

from actors.messages import Prompt, Verdict
from pipelines.evaluation.mode_figures import list_figures, rating_figures


def prompt(pair: str, label: Any) -> Prompt:
    return Prompt(f"{pair}/{label}", pair, "chosen_first", label, "chat", (1,))


def rated(pair: str, label: Any, rating: int | None) -> tuple[Prompt, Verdict]:
    return prompt(pair, label), Verdict(None, None if rating else "none_found", rating=rating)


def test_a_pair_is_right_where_the_better_response_is_rated_higher() -> None:
    judged = [rated("p", "A", 8), rated("q", "B", 5), rated("p", "B", 3), rated("q", "A", 5)]
    judged += [rated("r", "A", 2), rated("r", "B", 9), rated("s", "A", 7), rated("s", "B", None)]
    assert rating_figures(judged) == {"n": 4, "accuracy": 0.25, "ties": 0.25, "parse_rate": 7 / 8}


def test_a_list_is_right_where_the_better_response_is_first() -> None:
    said = [("p", "A", "A"), ("p", "C", "C"), ("q", "B", "A"), ("q", "A", "A"), ("r", "C", None), ("r", "A", "B")]
    judged = [(prompt(pair, label), Verdict(side, None if side else "empty")) for pair, label, side in said]  # type: ignore[arg-type]
    assert list_figures(judged) == {"n": 3, "accuracy": 0.5, "consistent_accuracy": 1 / 3, "parse_rate": 5 / 6}
