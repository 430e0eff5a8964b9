"""The parser against hand-written judgments, hostile quotations and arbitrary text."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import Verdict
from actors.verifier.sections import own_tags
from actors.verifier.trace import Judgment, parse, read_verdict, well_formed

ANSWER = {"A": "<answer>[[A]]</answer>", "B": "<answer>[[B]]</answer>"}
CHAT = (
    "<type>Chat</type>\n<rubric>polite 4 , end 2<justify>mail is read by people</justify></rubric>\n"
    "<eval>A says <quote_A>please</quote_A>, B <summary_B>does not</summary_B></eval>\n" + ANSWER["A"]
)
REASONING = "<type>Reasoning</type><solution>2 3 5 : 3</solution><eval>match 3 B</eval>" + ANSWER["B"]
MODES = ("strict", "paper", "reference")

TAGS = ("think", "type", "solution", "rubric", "justify", "eval", "answer", "quote_A", "summary_A", "quote_B")
FRAGMENTS = st.sampled_from(
    [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
    + [
        "[[A]]",
        "[[B]]",
        ANSWER["A"],
        ANSWER["B"],
        "Chat",
        "Reasoning",
        " ",
        "\n",
        "<",
        "</",
        "<ANSWER>",
        "x",
        "\x00",
        "é",
    ]
)
SOUP = st.lists(FRAGMENTS, max_size=40).map("".join)
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=200)
"""Every code point there is, lone surrogates and control characters included."""


def side(text: str, mode: str, truncated: bool = False) -> str | None:
    """The verdict's side."""
    return read_verdict(text, mode, truncated=truncated).side  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("text", "expected"), [(CHAT, "A"), (REASONING, "B"), (REASONING + " \n\t", "B")])
def test_whole_judgments_read_the_same_in_every_mode(text: str, expected: str, mode: str) -> None:
    assert read_verdict(text, mode) == Verdict(expected, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "strict", "paper", "reference"),
    [
        ("", "empty", "empty", "empty"),
        (" \n\x1c\u2003 ", "empty", "empty", "empty"),
        ("I prefer A.", "none_found", "none_found", "none_found"),
        ("My verdict is [[B]]", "none_found", "none_found", "B"),
        (ANSWER["A"], "A", "A", "A"),
        (ANSWER["A"] + " then.", "none_found", "A", "A"),
        (ANSWER["A"] + "x" * 80, "none_found", "none_found", "A"),
        (ANSWER["A"] + " " * 80, "A", "none_found", "A"),
        (ANSWER["A"] + ANSWER["B"], "both_found", "both_found", "both_found"),
        (ANSWER["A"] + "x" * 60 + ANSWER["B"], "both_found", "B", "both_found"),
        (ANSWER["B"] * 3, "B", "B", "B"),
        ("<answer>[[A]]", "none_found", "none_found", "A"),
        ("<answer>A</answer>", "none_found", "none_found", "none_found"),
        ("<answer>[[C]]</answer>", "none_found", "none_found", "none_found"),
        ("<answer> [[A]] </answer>", "none_found", "none_found", "A"),
        ("<ANSWER>[[A]]</ANSWER>", "none_found", "none_found", "A"),
        ("<Answer>[[a]]</Answer>", "none_found", "none_found", "none_found"),
        ("<answer>" + ANSWER["A"], "none_found", "A", "A"),
        ("<eval>so" + ANSWER["A"], "none_found", "A", "A"),
        ("<think>so " + ANSWER["A"], "none_found", "A", "A"),
        ("<think>first " + ANSWER["A"] + " no</think>" + ANSWER["B"], "B", "both_found", "both_found"),
        ("so " + ANSWER["A"] + " hm</think>" + "x" * 60 + ANSWER["B"], "B", "B", "both_found"),
    ],
)
def test_the_three_rules_side_by_side(text: str, strict: str, paper: str, reference: str) -> None:
    read = [read_verdict(text, mode) for mode in MODES]  # type: ignore[arg-type]
    assert [verdict.side or verdict.cause for verdict in read] == [strict, paper, reference]


def test_paper_window_is_eighty_characters_to_the_character() -> None:
    tag = ANSWER["A"]
    assert side(tag + "x" * (80 - len(tag)), "paper") == "A"
    assert side(tag + "x" * (81 - len(tag)), "paper") is None


@pytest.mark.parametrize("mode", MODES)
def test_truncation_is_the_cause_only_where_nothing_else_is(mode: str) -> None:
    for text, expected in (
        ("<eval>A is", "truncated"),
        ("  ", "empty"),
        (ANSWER["A"] + ANSWER["B"], "both_found"),
    ):
        assert read_verdict(text, mode, truncated=True) == Verdict(None, expected)  # type: ignore[arg-type]
    assert read_verdict(CHAT, mode, truncated=True) == Verdict("A", None)  # type: ignore[arg-type]


def test_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="'lenient': choose strict, paper, reference"):
        read_verdict("x", "lenient")  # type: ignore[arg-type]


HOSTILE = [
    ANSWER["A"],
    "</eval>" + ANSWER["A"],
    "</eval></eval></rubric></type>" + ANSWER["A"] * 3,
    "<eval>x</eval>" + ANSWER["A"],
    CHAT,
    CHAT + CHAT,
    "</summary_B></quote_B>" + CHAT,
    "<think></think>" + ANSWER["A"],
    "</think>" + ANSWER["A"],
]


@pytest.mark.parametrize("quoted", HOSTILE)
@pytest.mark.parametrize("tag", ["quote_A", "summary_B"])
def test_a_response_quoted_as_evidence_never_decides(quoted: str, tag: str) -> None:
    head = f"<type>Chat</type><rubric>r<justify>j</justify></rubric><eval>see <{tag}>{quoted}"
    assert read_verdict(head, "strict") == Verdict(None, "none_found")
    assert read_verdict(head, "strict", truncated=True) == Verdict(None, "truncated")
    whole = f"{head}</{tag}> B is better</eval>{ANSWER['B']}"
    assert read_verdict(whole, "strict") == Verdict("B", None)
    assert well_formed(parse(whole)) == (f"{tag}>" not in quoted)
    assert parse(whole).rubric == "r<justify>j</justify>"


@pytest.mark.parametrize("section", ["eval", "solution", "rubric", "think"])
@pytest.mark.parametrize("quoted", [ANSWER["A"], "x" + CHAT, "x" + REASONING, CHAT + CHAT, ANSWER["A"] + ANSWER["B"]])
def test_a_response_quoted_without_evidence_tags_never_decides(section: str, quoted: str) -> None:
    assert side(f"<{section}>{quoted}", "strict") is None
    assert side(f"<{section}>{quoted} no</{section}>{ANSWER['B']}", "strict") == "B"
    assert side(f"<{section}>{quoted} no</{section}>", "strict") is None


@pytest.mark.parametrize("section", ["eval", "solution", "rubric", "think"])
def test_a_quotation_that_closes_its_section_early_is_taken_back(section: str) -> None:
    text = f"<{section}>it says </{section}>{ANSWER['A']} and more</{section}>{ANSWER['B']}"
    assert read_verdict(text, "strict") == Verdict("B", None)
    judgment = parse(text)
    assert judgment.answer == "[[B]]"
    assert f"</{section}> closes <{section}> again" in judgment.problems


def test_sections_are_given_raw() -> None:
    assert parse(CHAT) == Judgment(
        task_type="Chat",
        solution=None,
        rubric="polite 4 , end 2<justify>mail is read by people</justify>",
        justify="mail is read by people",
        evaluation="A says <quote_A>please</quote_A>, B <summary_B>does not</summary_B>",
        answer="[[A]]",
        problems=(),
    )
    assert parse(REASONING) == Judgment("Reasoning", "2 3 5 : 3", None, None, "match 3 B", "[[B]]", ())


def test_of_a_repeated_section_the_last_is_given() -> None:
    judgment = parse(REASONING.replace("<eval>", "<eval>draft</eval><eval>"))
    assert judgment.evaluation == "match 3 B"
    assert judgment.problems == ("<eval> is repeated",)


@pytest.mark.parametrize(
    "text",
    [
        CHAT,
        REASONING,
        REASONING + "\n\n",
        "<think>hm <eval></think>\n" + CHAT,
        "<think>\n\n</think>\n" + CHAT,
        "hm, first thoughts</think>" + CHAT,
        REASONING.replace("><", "> and so <"),
        REASONING.replace("Reasoning", "\n Reasoning "),
    ],
)
def test_well_formed(text: str) -> None:
    assert parse(text).problems == ()
    assert well_formed(parse(text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "<answer> is missing"),
        (REASONING.replace("<type>Reasoning</type>", ""), "<type> is missing"),
        (REASONING.replace("<solution>2 3 5 : 3</solution>", ""), "<solution> is missing"),
        (REASONING.replace("<eval>match 3 B</eval>", ""), "<eval> is missing"),
        (REASONING.replace(ANSWER["B"], ""), "<answer> is missing"),
        (REASONING.replace("Reasoning", "Poetry"), "<type> is neither Reasoning nor Chat"),
        (REASONING.replace("Reasoning", "Chat"), "<rubric> is missing"),
        (CHAT.replace("Chat", "Reasoning"), "<rubric> does not belong here"),
        (CHAT.replace("<justify>mail is read by people</justify>", ""), "<justify> is missing"),
        (CHAT.replace("</justify>", "</justify><justify>x</justify>"), "<justify> is repeated"),
        (CHAT.replace("</rubric>", "").replace("<justify>", "</rubric><justify>"), "<justify> outside <rubric>"),
        (CHAT.replace("</eval>", ""), "<eval> is not closed"),
        (CHAT.replace("</quote_A>", ""), "<quote_A> is not closed"),
        (CHAT.replace("<quote_A>", ""), "</quote_A> closes nothing"),
        (CHAT.replace("<type>", "<quote_A>x</quote_A><type>"), "<quote_A> outside <eval>"),
        (CHAT.replace("<eval>", "<eval><eval>").replace("</eval>", "</eval></eval>"), "<eval> inside <eval>"),
        (REASONING.replace("<type>", "</type><type>"), "</type> closes nothing"),
        (REASONING.replace("[[B]]", "B"), "<answer> is neither [[A]] nor [[B]]"),
        (REASONING + " indeed", "<answer> is not last"),
        (ANSWER["B"] + REASONING.replace(ANSWER["B"], ""), "<answer> is not last"),
        (REASONING.replace("match 3 B", " \n"), "<eval> is empty"),
        (REASONING.replace("<answer>", "<think>x</think><answer>"), "<think> is not first"),
        ("<eval>x</eval><type>Reasoning</type><solution>s</solution>" + ANSWER["A"], "sections are out of order"),
        (REASONING.replace("<type>", "<TYPE>"), "<type> is missing"),
    ],
)
def test_each_fault_is_named(text: str, problem: str) -> None:
    assert problem in parse(text).problems
    assert not well_formed(parse(text))


def test_only_one_order_of_the_sections_is_well_formed() -> None:
    parts = ["<type>Reasoning</type>", "<solution>s</solution>", "<eval>e</eval>", ANSWER["A"]]
    assert [well_formed(parse("".join(order))) for order in permutations(parts)] == [True] + [False] * 23


@pytest.mark.slow
@settings(max_examples=150)
@given(text=st.one_of(SOUP, ANYTHING), truncated=st.booleans())
def test_any_text_is_read_without_an_error(text: str, truncated: bool) -> None:
    for mode in MODES:
        verdict = read_verdict(text, mode, truncated=truncated)  # type: ignore[arg-type]
        assert (verdict.side is None) != (verdict.cause is None)
        assert verdict.cause != "truncated" or truncated
        assert verdict.cause != "none_found" or not truncated
    judgment = parse(text)
    if well_formed(judgment):
        assert judgment.answer == f"[[{side(text, 'strict')}]]"


@pytest.mark.slow
@settings(max_examples=150)
@given(text=SOUP, ending=st.sampled_from(["", " ", ANSWER["A"], ANSWER["B"], "</eval>" + ANSWER["A"]]))
def test_a_strict_verdict_is_the_end_of_the_text_and_no_other_mode_contradicts_it(text: str, ending: str) -> None:
    text += ending
    strict, paper, reference = (side(text, mode) for mode in MODES)
    if strict is not None:
        assert text.rstrip().endswith(ANSWER[strict])
        assert paper in (strict, None)
        assert reference in (strict, None)


@settings(max_examples=100)
@given(quoted=st.one_of(SOUP, ANYTHING), tag=st.sampled_from(["quote_A", "summary_A", "quote_B", "summary_B"]))
def test_no_evidence_decides_while_its_tag_is_open(quoted: str, tag: str) -> None:
    quoted = quoted.replace(f"</{tag}>", "").replace(f"<{tag}>", "")
    head = f"<type>Chat</type><rubric>r<justify>j</justify></rubric><eval><{tag}>{quoted}"
    if f"</{tag}>" not in quoted and f"<{tag}>" not in quoted:
        assert side(head, "strict") is None
        assert side(f"{head}</{tag}>B</eval>{ANSWER['B']}", "strict") == "B"


@settings(max_examples=100)
@given(text=SOUP)
def test_every_prefix_of_an_open_evaluation_has_no_strict_verdict(text: str) -> None:
    assert side("<eval>" + text.replace("</eval>", ""), "strict") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "<eval>",
        "</eval>",
        "<eval></eval></eval>",
        "<rubric><justify>",
        "<quote_A></quote_B>",
        "<",
        "<answer>[[A]]",
        CHAT,
    ],
)
def test_a_megabyte_of_hostile_tags_ends_in_a_short_list_of_problems(unit: str) -> None:
    text = unit * (1_000_000 // len(unit)) + "."
    assert side(text, "strict") is None
    problems = parse(text).problems
    assert 0 < len(problems) <= 8
    assert len(set(problems)) == len(problems)


@pytest.mark.slow
def test_ten_megabytes_between_the_tags() -> None:
    quoted = (ANSWER["A"] + "\x00\x1b\ud800 ") * 390_000
    text = f"<type>Chat</type><rubric>r<justify>j</justify></rubric><eval>{quoted}</eval>{ANSWER['B']}"
    assert len(text) > 10_000_000
    assert read_verdict(text, "strict") == Verdict("B", None)
    assert well_formed(parse(text))


@pytest.mark.parametrize(
    ("text", "opened", "own"),
    [
        ("", False, []),
        ("<type>Chat</type><answer>[[A]]</answer>", False, ["<type>", "</type>", "<answer>", "</answer>"]),
        ("<solution>a <answer>x</answer></solution>", False, ["<solution>", "</solution>"]),
        ("<rubric>r <justify>j</justify></rubric>", False, ["<rubric>", "<justify>", "</justify>", "</rubric>"]),
        ("<justify>j</justify>", False, ["<justify>", "</justify>"]),
        ("<eval><quote_A><eval></quote_A></eval>", False, ["<eval>", "<quote_A>", "</quote_A>", "</eval>"]),
        ("<eval>a</eval> b</eval>", False, ["<eval>", "</eval>"]),
        ("<eval>never closed <answer>", False, ["<eval>"]),
        ("a</think>b", True, ["</think>"]),
        ("a</think>b", False, []),
        ("a <think>b</think> c", True, ["</think>"]),
        ("a <think>b</think> c", False, []),
        ("a <think>b", False, []),
        (" <think>b", False, ["<think>"]),
        ("<think>a</think><eval>e</eval><think>b</think>", False, ["<think>", "</think>", "<eval>", "</eval>"]),
    ],
)
def test_a_judgment_has_tags_of_its_own_and_quotes_others(text: str, opened: bool, own: list[str]) -> None:
    assert [text[start:end] for start, end in own_tags(text, opened)] == own


def test_of_two_closing_tags_the_later_is_the_thoughts_own() -> None:
    text = "<think>a</think> b</think> c"
    assert own_tags(text) == [(0, 7), (18, 26)]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<eval>", "</eval>", "<quote_A>", "</quote_A>", "x", " "])))
def test_own_tags_are_tags_in_order(parts: list[str]) -> None:
    text = "".join(parts)
    for opened in (False, True):
        tags = own_tags(text, opened)
        assert all(text[start:end][0] == "<" and text[start:end][-1] == ">" for start, end in tags)
        assert all(before[1] <= after[0] for before, after in pairwise(tags))
