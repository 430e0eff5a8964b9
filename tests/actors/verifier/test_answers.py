"""The rows of the parser: what an answer may say in each mode, under the same rule of what counts as an answer."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import JudgeMode, Verdict
from actors.verifier.trace import VerdictMode, parse, read_verdict, well_formed

MODES = get_args(JudgeMode)
RULES = get_args(VerdictMode)


def said(body: str) -> str:
    return f"<eval>so it is</eval><answer>[[{body}]]</answer>"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("judged", "body", "responses", "read"),
    [
        ("pairwise", "B", 2, Verdict("B", None)),
        ("pairwise", "C", 2, None),
        ("pointwise", "1", 1, Verdict(None, None, rating=1)),
        ("pointwise", "10", 1, Verdict(None, None, rating=10)),
        *(("pointwise", body, 1, None) for body in ("0", "11", "07", "7.5", "-3", "7/10", " 7", "A", "٧", "seven", "")),
        ("listwise", "B > A", 2, Verdict("B", None, ranking=("B", "A"))),
        ("listwise", "C>A>B", 3, Verdict("C", None, ranking=("C", "A", "B"))),
        ("listwise", "D > B > A > C", 4, Verdict("D", None, ranking=("D", "B", "A", "C"))),
        # Not every response, one twice, one that is not shown, no order.
        *(
            ("listwise", body, 3, None)
            for body in ("B > A", "A > A > B", "A > B > D", "B", "A = B > C", "A, B, C", "7")
        ),
    ],
)
def test_what_an_answer_may_say(rule: Any, judged: Any, body: str, responses: int, read: Verdict | None) -> None:
    found = read_verdict(said(body), rule, judged=judged, responses=responses)
    assert found == (read or Verdict(None, "none_found"))


@pytest.mark.parametrize("judged", MODES)
def test_the_rule_of_what_counts_is_the_same_in_every_mode(judged: JudgeMode) -> None:
    one, two = {"pairwise": ("A", "B"), "pointwise": ("3", "10"), "listwise": ("A > B", "B > A")}[judged]

    def read(text: str, rule: Any, **more: Any) -> Verdict:
        return read_verdict(text, rule, judged=judged, **more)

    answer = f"<answer>[[{one}]]</answer>"
    wanted = read(answer, "strict")
    assert wanted.cause is None
    # What an evaluation quotes is no answer, a second and different one makes both void, and text after it counts.
    quoting = f"<eval>it says <answer>[[{two}]]</answer></eval>{answer}"
    assert read(quoting, "strict") == wanted
    assert read(quoting + " " * 90, "paper").cause == "none_found"
    assert read(f"<answer>[[{two}]]</answer>{answer}", "strict").cause == "both_found"
    assert read(f"{answer} I am sure.", "strict").cause == "none_found"
    assert read(f"{answer} I am sure.", "paper") == wanted
    assert read(f"[[{one}]] and again [[{one}]]", "reference") == wanted
    assert read(f"[[{one}]] or [[{two}]]", "reference").cause == "both_found"
    assert read(f"<eval>open {answer}", "strict", truncated=True).cause == "truncated"
    assert read(" \n", "strict").cause == "empty"
    # An answer of another mode is none.
    others = {"pairwise": "7", "pointwise": "B > A", "listwise": "A"}
    assert read(said(others[judged]), "strict").cause == "none_found"


@given(
    st.lists(st.sampled_from(["<answer>", "</answer>", "[[", "]]", "A", "B", " > ", "7", "10", "<eval>", "</eval>"]))
)
def test_any_soup_is_read_without_an_error_and_the_rules_agree(parts: list[str]) -> None:
    text = "".join(parts)
    for judged in MODES:
        strict, paper = (read_verdict(text, rule, judged=judged) for rule in ("strict", "paper"))
        for verdict in (strict, paper):
            # The side of a rating is empty; that of an order is its first.
            assert verdict.side == (verdict.ranking[0] if verdict.ranking else verdict.side)
            assert (verdict.rating is None) or (judged == "pointwise" and 1 <= verdict.rating <= 10)
        if strict.cause is None and paper.cause is None:
            assert strict == paper


@pytest.mark.parametrize(
    ("judged", "body", "fault"),
    [
        ("pairwise", "7", "<answer> is neither [[A]] nor [[B]]"),
        ("pointwise", "A", "<answer> is no rating from [[1]] to [[10]]"),
        ("listwise", "A", "<answer> is no order of all answers, such as [[B > A]]"),
    ],
)
def test_a_well_formed_judgment_ends_in_an_answer_of_its_mode(judged: Any, body: str, fault: str) -> None:
    right = {"pairwise": "A", "pointwise": "7", "listwise": "B > A"}[judged]
    whole = "<type>Reasoning</type><solution>3</solution><eval>match</eval><answer>[[{}]]</answer>"
    assert well_formed(parse(whole.format(right), judged))
    assert parse(whole.format(body), judged).problems == (fault,)
