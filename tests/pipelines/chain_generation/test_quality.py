"""Measures of a trace against examples worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.verifier.trace import parse
from pipelines.chain_generation.quality import criteria, measure, mentions, quote_found, tallied, weights_sum

A = "The capital of France is Paris. It lies on the Seine, and it has been the capital since 987."
B = "Probably Lyon, but I am not certain about that."
TRACE = (
    "<type>Chat</type>\n<rubric>\n1. **Accuracy (60%)**: names the right city\n2. Clarity: 30%\n- Brevity (10%)\n"
    "<justify>A fact was asked for; 100% of users want it right.</justify>\n</rubric>\n"
    "<eval>Accuracy: <quote_A>The capital of France is Paris</quote_A> against <quote_B>probably Lyon</quote_B>. "
    "It is clear, too: <quote_B>I am fully certain about all of that</quote_B>.\nTotal: A 9.5, B 3\n</eval>\n"
    "<answer>[[A]]</answer>"
)


def test_a_whole_trace() -> None:
    quality = measure(TRACE, {"A": A, "B": B})
    assert quality.well_formed
    assert quality.quotes == 3
    assert quality.quotes_found == pytest.approx(2 / 3)
    assert (quality.weights_sum, quality.weights_add_up) == (100.0, True)
    assert quality.criteria == 3
    assert quality.criteria_mentioned == pytest.approx(1 / 3)
    assert (quality.tally, quality.tally_agrees) == ("A", True)
    assert quality.words == len(TRACE.split())
    assert quality.evaluation_words == 27
    assert quality.score == pytest.approx((2 / 3 + 1 / 3 + 1 + 1) / 4)


def test_what_does_not_apply_is_none() -> None:
    quality = measure(
        "<type>Reasoning</type><solution>4</solution><eval>Total: A 4, B 5</eval><answer>[[A]]</answer>",
        {"A": "4", "B": "5"},
    )
    assert quality.well_formed
    assert quality.quotes_found is quality.weights_sum is quality.criteria_mentioned is quality.tally is None
    assert quality.score == 1.0
    empty = measure("", {"A": A, "B": B})
    assert not empty.well_formed
    assert empty.words == 0


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("The capital of France is Paris", True),
        ("the CAPITAL, of France: is 'Paris'", True),
        ("the capital of France ... since 987", True),
        ("the capital of France … since 1987", False),
        ("Paris", True),
        ("Par", False),
        ("It lies on the Seine and it was the capital since 987", True),  # one word changed: 9 of 11 pairs
        ("The capital of Spain has always been Madrid", False),
        ("lies on the Loire", False),
        ("...", False),
        ("", False),
    ],
)
def test_quotes(quote: str, found: bool) -> None:
    assert quote_found(quote, A) is found


@pytest.mark.parametrize(
    ("rubric", "total", "names"),
    [
        ("- Depth: 50%\n- Tone: 50 %", 100.0, ("Depth", "Tone")),
        ("1) Depth - weight 33.3%\n2) Tone - weight 33.3%\n3) Facts - 33.3%", 99.9, ("Depth", "Tone", "Facts")),
        ("Depth (70%)\nTone (40%)", 110.0, ("Depth", "Tone")),
        (
            "list end cat four , polite two , mention dog one",
            None,
            ("list end cat four", "polite two", "mention dog one"),
        ),
        ("**Depth**", None, ("Depth",)),
        ("<justify>half: 50%</justify>", None, ()),
    ],
)
def test_rubrics(rubric: str, total: float | None, names: tuple[str, ...]) -> None:
    judgment = parse(f"<type>Chat</type><rubric>{rubric}</rubric>")
    assert weights_sum(judgment) == (None if total is None else pytest.approx(total))
    assert criteria(judgment) == names


def test_three_thirds_add_up() -> None:
    trace = TRACE.replace("60%", "33%").replace("30%", "33%").replace("10%", "33%")
    assert measure(trace, {"A": A, "B": B}).weights_add_up is True
    assert measure(trace.replace("33%", "30%"), {"A": A, "B": B}).weights_add_up is False


def test_mentions_by_half_of_the_words() -> None:
    assert mentions("It is accurate and complete.", "Factual accuracy")
    assert mentions("The completeness is lacking", "Complete")
    assert not mentions("It is nice.", "Factual accuracy")


@pytest.mark.parametrize(
    ("evaluation", "side"),
    [
        ("Total: A 82, B 71", "A"),
        ("Overall score of Chatbot A: 6/10\nOverall score of Chatbot B: 8/10", "B"),
        ("**Weighted sum** A: 4*0.3 + 5*0.7 = 4.7; B: 5*0.3 + 4*0.7 = 4.3", "A"),
        ("Total A 1, B 2\nTotal A 3, B 2", "A"),
        ("Total: A 7, B 7", None),
        ("Accuracy: A 9, B 2", None),
        ("In total A makes 2 mistakes, B makes 5", None),
        ("Total: A 9", None),
        ("", None),
    ],
)
def test_tallies(evaluation: str, side: str | None) -> None:
    assert tallied(evaluation) == side


def test_a_verdict_against_its_own_tally() -> None:
    assert measure(TRACE.replace("A 9.5", "A 2"), {"A": A, "B": B}).tally_agrees is False


@settings(max_examples=40)
@given(st.text(alphabet="<>/qureoAB_%.\n1 evaljstifyb", max_size=300))
def test_any_text_is_measured(text: str) -> None:
    quality = measure(f"<type>Chat</type><rubric>{text}</rubric><eval>{text}</eval>", {"A": text, "B": ""})
    for share in (quality.quotes_found, quality.criteria_mentioned, quality.score):
        assert share is None or 0 <= share <= 1


@pytest.mark.slow
def test_hostile_length_is_measured_in_linear_time() -> None:
    text = "<quote_A>" * 20_000 + "A " * 50_000 + "Total = " * 20_000
    assert measure(f"<type>Chat</type><rubric>{text}</rubric><eval>{text}</eval>", {"A": text, "B": text}).quotes == 0
