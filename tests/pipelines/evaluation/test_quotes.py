"""Where quotes are found in the answers, and where they are not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.quotes import marks, places, quotes

ANSWER = "The capital of France is Paris.\n\nIt lies on  the Seine, and has about two million people."


def test_a_quote_is_found_word_for_word() -> None:
    assert [ANSWER[start:end] for start, end in places('"It lies on the Seine"', ANSWER)] == ["It lies on  the Seine"]
    assert [ANSWER[start:end] for start, end in places("“THE CAPITAL … two million people.”", ANSWER)] == [
        "The capital",
        "two million people.",
    ]
    assert places("It lies on the Thames", ANSWER) == []
    assert places("million ... capital", ANSWER) == []  # Not in this order.
    assert places("of", ANSWER) == []  # Too short to mean a place.


def judgment(evaluation: str) -> str:
    """A whole judgment around an evaluation."""
    return f"<type>Chat</type>\n<rubric>x<justify>y</justify></rubric><eval>{evaluation}</eval><answer>[[A]]</answer>"


def test_only_quotes_of_the_evaluation_count() -> None:
    text = judgment("<quote_A>capital of France</quote_A> but <quote_B>none</quote_B> and <quote_A>is Paris</quote_A>")
    assert quotes(text, "A") == ["capital of France", "is Paris"]
    spans, missing = marks(text, ANSWER, "A")
    assert [ANSWER[start:end] for start, end in spans] == ["capital of France", "is Paris"]
    assert missing == 0
    assert marks(text, ANSWER, "B") == ([], 1)
    assert quotes("<quote_A>capital</quote_A>", "A") == []
    assert quotes(judgment("<quote_A>never closed"), "A") == []


def test_passages_that_overlap_are_one() -> None:
    text = judgment("<quote_A>The capital of</quote_A><quote_A>capital of France</quote_A>")
    assert marks(text, ANSWER, "A") == ([(0, len("The capital of France"))], 0)


@given(st.text(), st.text())
def test_spans_lie_in_the_answer_and_in_order(quoted: str, answer: str) -> None:
    after = 0
    for start, end in places(quoted, answer + quoted):
        assert after <= start < end <= len(answer + quoted)
        after = end


@given(st.text(alphabet="abc de\n", min_size=5).filter(lambda text: len(text.split()) > 1), st.text(max_size=20))
def test_what_is_there_is_found(quoted: str, around: str) -> None:
    answer = f"{around}|{quoted}|{around}"
    if len(" ".join(quoted.split())) >= 3:
        assert places(quoted, answer)
