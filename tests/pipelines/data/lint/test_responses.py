"""Positions, biases, missing ends, roles and swapped labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pairs import many_pairs, swapped

from pipelines.data.lint.agreement import label_agreement
from pipelines.data.lint.findings import Shown
from pipelines.data.lint.positions import positions
from pipelines.data.lint.responses import (
    figures_by_source,
    is_truncated,
    length_bias,
    markdown_bias,
    markdown_marks,
    roles,
    source_table,
    truncated,
)
from pipelines.data.schema import Message


def shown(firsts: list[bool], source: str = "made") -> list[Shown]:
    pairs = many_pairs(len(firsts), source=source)
    return [
        Shown(pair, "chosen_first" if first else "chosen_second", "train")
        for pair, first in zip(pairs, firsts, strict=True)
    ]


@pytest.mark.parametrize(
    ("first", "total", "ok"), [(300, 500, False), (200, 500, False), (60, 100, False), (270, 500, True), (6, 10, True)]
)
def test_position_balance(first: int, total: int, ok: bool) -> None:
    finding = positions(shown([index < first for index in range(total)]), 0.05)
    assert finding.ok is ok
    assert finding.numbers["first"] == first / total


def test_sources_that_balance_each_other_are_caught() -> None:
    items = shown([True] * 80 + [False] * 20, "one") + shown([True] * 20 + [False] * 80, "two")
    finding = positions(items, 0.05)
    assert finding.numbers["first"] == 0.5
    assert finding.ok is False
    assert finding.numbers["first_by_source"] == {"one": 0.8, "two": 0.2}


def test_length_bias_is_measured_by_source() -> None:
    groups = figures_by_source(many_pairs(200, source="even") + many_pairs(200, source="long", longer_wins=0.8))
    finding = length_bias(groups, 0.1)
    assert finding.ok is False
    assert finding.numbers["by_source"]["long"] == pytest.approx(0.8, abs=0.06)
    assert finding.numbers["by_source"]["even"] == pytest.approx(0.5, abs=0.1)
    assert "long" in finding.summary
    assert "even" not in finding.summary
    assert length_bias(figures_by_source(many_pairs(200)), 0.1).ok


def test_markdown_bias() -> None:
    assert markdown_marks("# Title\n\n- one\n- **two**\n1. `x`\n| a | b |") == 8
    assert markdown_marks("a plain - sentence, # not a title, 1. no list") == 0
    pairs = [replace(pair, chosen=f"**Yes.** {pair.chosen}") for pair in many_pairs(100)]
    assert markdown_bias(figures_by_source(pairs), 0.1).numbers["accuracy"] == 1.0
    assert markdown_bias(figures_by_source(many_pairs(100)), 0.1).ok is None


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("word " * 30 + "end.", False),
        ("word " * 30 + "and then the", True),
        ("word " * 30 + "(see below)", False),
        ("Use this:\n```python\nprint(1)", True),
        ("Use this:\n```python\nprint(1)\n```", False),
        ("short answer", False),
        ("word " * 30 + "total 42", False),
    ],
)
def test_truncated_responses(text: str, missing: bool) -> None:
    assert is_truncated(text) is missing


def test_responses_cut_on_one_side_are_reported() -> None:
    pairs = many_pairs(300)
    cut = [replace(pair, rejected="word " * 25 + "and") if index % 5 == 0 else pair for index, pair in enumerate(pairs)]
    finding = truncated(figures_by_source(cut), 0.2)
    assert finding.ok is False
    assert finding.numbers == {"chosen": 0.0, "rejected": 0.2}
    assert truncated(figures_by_source(pairs), 0.2).ok


def test_roles_that_do_not_alternate() -> None:
    user, assistant, system = (Message(role, "x") for role in ("user", "assistant", "system"))  # type: ignore[arg-type]
    sound = [(user,), (system, user), (user, assistant, user)]
    wrong = [(user, user), (assistant, user), (user, system, user)]
    (pair,) = many_pairs(1)
    finding = roles([replace(pair, id=f"{index}", prompt=prompt) for index, prompt in enumerate(sound + wrong)])
    assert finding.ok is False
    assert finding.examples == ("3", "4", "5")
    assert roles(many_pairs(3, turns=3)).ok


@pytest.mark.slow
def test_swapped_labels_of_one_source_show() -> None:
    pairs = [pair for name in ("a", "b", "c") for pair in many_pairs(300, source=name, longer_wins=0.75)]
    defect = [swapped(pair) if pair.source == "b" else pair for pair in pairs]
    clean, found = (label_agreement(figures_by_source(data), 0) for data in (pairs, defect))
    assert clean.ok
    assert found.ok is False
    assert found.numbers["against"] == ["b"]
    assert found.numbers["by_source"]["b"] < 0.35
    assert min(clean.numbers["by_source"].values()) > 0.65
    groups = figures_by_source(defect)
    rows = {row["source"]: row for row in source_table(defect, groups, {}, found.numbers["by_source"])}
    assert rows["b"]["longer_wins"] < 0.35 < 0.65 < rows["a"]["longer_wins"]
    assert rows["b"]["words_chosen"] < rows["b"]["words_rejected"]


def test_one_source_has_nothing_to_agree_with() -> None:
    assert label_agreement(figures_by_source(many_pairs(300)), 0).ok is None
