"""Why an answer is refused, which of several is kept, and what the second teacher is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.messages import Side
from pipelines.chain_generation.betrayal import BetrayalLint
from pipelines.chain_generation.hints import load_hint
from pipelines.chain_generation.questions import Question
from pipelines.chain_generation.selection import Candidate, best, examine, flawed_attempt
from pipelines.config import ChainFilters
from pipelines.data.schema import Message, PreferencePair
from pipelines.endpoints.requests import Answer

PAIR = PreferencePair(
    "p", "s", "Chat", (Message("user", "Name the capital."),), "Paris, on the Seine.", "Lyon, surely."
)
SHOWN = [{"role": "user", "content": "Name the capital.\nA Lyon, surely.\nB Paris, on the Seine."}]
QUESTION = Question("p/chosen_second", PAIR, "chosen_second", "B", SHOWN, SHOWN)
LINT = BetrayalLint(load_hint("revise"), 6)
GOOD = (
    "<type>Chat</type><rubric>- Accuracy: 70%\n- Tone: 30%<justify>A fact.</justify></rubric><eval>Accuracy: "
    "<quote_B>Paris, on the Seine</quote_B> is right. Tone is equal.\nTotal: A 3, B 9</eval><answer>[[B]]</answer>"
)


def answer(text: str = GOOD, round: int = 0, sample: int = 0, finish_reason: str = "stop") -> Answer:
    return Answer(
        f"{round}/{sample}", QUESTION.uid, round, sample, text, finish_reason, "m", 10, 20, False, 0.0, 1.0, 1
    )


def look(reply: Answer, **filters: Any) -> Candidate:
    return examine(QUESTION, reply, replace(ChainFilters(), **filters), LINT)


def test_a_good_chain_is_kept() -> None:
    strict = {"quotes": 1, "quotes_found": 1.0, "weights_add_up": True, "criteria_mentioned": 1.0}
    candidate = look(answer(f"\n{GOOD}\n"), **strict, min_words=5, max_words=100)
    assert candidate.kept
    assert (candidate.verdict, candidate.quality.score) == ("B", 1.0)


@pytest.mark.parametrize(
    ("reply", "filters", "cause", "detail"),
    [
        (answer(finish_reason="length"), {}, "cut at the token limit", ""),
        (answer(""), {}, "no verdict", "empty"),
        (answer(GOOD + " So B."), {}, "no verdict", "none found"),
        (answer(GOOD.replace("[[B]]", "[[A]]")), {}, "wrong verdict", ""),
        (answer(GOOD.replace("<type>Chat</type>", "")), {}, "not well formed", "<type> is missing"),
        (answer(GOOD.replace("A fact.", "I was told.")), {}, None, ""),
        (answer(GOOD.replace("A fact.", "I was told."), 1), {}, "betrays the hint", "i was told"),
        (answer(), {"quotes": 2}, "too few quotes", "1 of 2"),
        (answer(GOOD.replace("the Seine<", "a Loire<")), {"quotes_found": 0.5}, "quotes not found", "0.00 below 0.5"),
        (answer(GOOD.replace("30%", "20%")), {"weights_add_up": True}, "weights do not add up", "90%"),
        (answer(GOOD.replace("Tone is", "They are")), {"criteria_mentioned": 0.6}, "criteria not mentioned", "0.50"),
        (answer(GOOD.replace("A 3, B 9", "A 9, B 3")), {}, "against its own tally", "totals favour A"),
        (answer(GOOD.replace("A 3, B 9", "A 9, B 3")), {"tally_agrees": False}, None, ""),
        (answer(), {"min_words": 50}, "too short", "words"),
        (answer(), {"max_words": 3}, "too long", "words"),
        (answer("<answer>[[B]]</answer>"), {"well_formed": False}, None, ""),
    ],
)
def test_every_reason_to_refuse(reply: Answer, filters: dict[str, Any], cause: str | None, detail: str) -> None:
    candidate = look(reply, **filters)
    assert candidate.cause == cause
    assert detail in candidate.detail


def test_quotes_are_looked_for_on_their_own_side() -> None:
    swapped = GOOD.replace("quote_B", "quote_A")
    assert look(answer(swapped)).quality.quotes_found == 0.0
    assert look(answer(swapped.replace("Paris, on the Seine<", "Lyon, surely<"))).quality.quotes_found == 1.0


def test_earlier_turns_and_ready_made_prompts_may_be_quoted() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Good morning to you"), Message("user", "Name it."))
    assert replace(QUESTION, pair=replace(PAIR, prompt=turns)).judged == {
        "A": "Good morning to you\nLyon, surely.",
        "B": "Good morning to you\nParis, on the Seine.",
    }
    ready = replace(PAIR, metadata={"context_messages": SHOWN, "winner": "B"})
    assert set(replace(QUESTION, pair=ready).judged.values()) == {SHOWN[0]["content"]}


def test_the_best_is_kept_and_of_equals_the_first() -> None:
    poorer = GOOD.replace("the Seine<", "a Loire<")
    candidates = [look(answer(poorer, sample=0)), look(answer(sample=2)), look(answer(sample=1))]
    chosen = best(candidates)
    assert chosen is not None
    assert chosen.answer.sample == 1
    assert best([look(answer(""))]) is None
    assert best([]) is None


def test_the_attempt_that_is_shown() -> None:
    def wrong(side: Side, round: int) -> Candidate:
        return look(answer(GOOD.replace("[[B]]", f"[[{side}]]") + " " * round, round))

    unfinished = look(answer("<type>Chat</type>", 2))
    betraying = look(answer(GOOD.replace("A fact.", "I was told."), 3))
    cut = look(answer("endless", finish_reason="length"))
    assert flawed_attempt([cut, unfinished, betraying, wrong("A", 0)]) == wrong("A", 0).answer.text
    assert flawed_attempt([cut, unfinished, betraying]) == "<type>Chat</type>"
    assert flawed_attempt([cut, betraying]) == "endless"
    assert flawed_attempt([betraying, look(answer(""))]) == "(nothing)"
