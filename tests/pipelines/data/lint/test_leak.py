"""Label leaks: planted ones are found, also rare ones; clean data pass; and so does what only looks like a leak."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pairs import many_pairs

from actors.messages import Order
from pipelines.data.lint.findings import Shown
from pipelines.data.lint.leak import MASK, MaskedPrompt, label_leak, masked_prompts
from pipelines.data.prompts import PromptTemplate, load_template, orders_of
from pipelines.data.schema import Message, PreferencePair

TEMPLATE = load_template("chain_of_rubrics")


def shown(pairs: list[PreferencePair], orders: str = "alternate") -> list[Shown]:
    return [Shown(pair, order, "train") for pair, order in orders_of(pairs, orders, 0)]


def ready_made(pair: PreferencePair, order: Order, misspelt: bool) -> Shown:
    """A prompt as the released RM-R1 code wrote it: Chatbot B's name, misspelt where B is the worse one."""
    first, second = (pair.chosen, pair.rejected) if order == "chosen_first" else (pair.rejected, pair.chosen)
    asked = "\n".join(f"{message.role}: {message.content}" for message in pair.prompt)
    name = "Chabot B" if misspelt and order == "chosen_first" else "Chatbot B"
    text = f"[Conversation with Chatbot A]\n{asked}\nChatbot A: {first}\n[End]\n{asked}\n{name}: {second}\n[End]"
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": text}]
    made: dict[str, Any] = {"context_messages": messages, "winner": "A" if order == "chosen_first" else "B"}
    return Shown(replace(pair, metadata=made, prompt=(Message("user", text),)), order, "train")


def published(misspelt: int, count: int = 600) -> list[Shown]:
    """Every ``misspelt``-th pair has the defect; 0: none."""
    pairs = orders_of(many_pairs(count, turns=3), "alternate", 0)
    return [
        ready_made(pair, order, bool(misspelt) and index // 2 % misspelt == 0)
        for index, (pair, order) in enumerate(pairs)
    ]


def test_responses_are_masked_and_nothing_else() -> None:
    (pair,) = many_pairs(1)
    (masked,) = masked_prompts(shown([pair]), TEMPLATE)
    assert masked.text.count(MASK) == 2
    assert pair.prompt[0].content in masked.text
    assert pair.chosen not in masked.text
    assert masked.more == ""


@pytest.mark.slow
@pytest.mark.parametrize("orders", ["alternate", "random", "both"])
def test_clean_prompts_are_at_chance(orders: str) -> None:
    finding = label_leak(masked_prompts(shown(many_pairs(600), orders), TEMPLATE), 0.02, 0)
    assert finding.ok
    assert finding.numbers["accuracy"] == pytest.approx(0.5, abs=0.15)
    assert finding.examples == ()


@pytest.mark.slow
def test_clean_ready_made_prompts_are_at_chance_though_their_responses_tell() -> None:
    """The better response always begins with "Certainly" here: true, and no leak of the prompt."""
    items = [
        ready_made(pair, order, False)
        for pair, order in orders_of(many_pairs(600, turns=3, longer_wins=1.0), "alternate", 0)
    ]
    assert label_leak(masked_prompts(items, TEMPLATE), 0.02, 0).ok


@pytest.mark.slow
def test_the_misspelt_chatbot_is_caught() -> None:
    finding = label_leak(masked_prompts(published(misspelt=1), TEMPLATE), 0.02, 0)
    assert finding.ok is False
    assert finding.numbers["accuracy"] > 0.95
    assert any("'Chabot' (300 prompts, first is better in 100%)" in example for example in finding.examples)
    assert label_leak(masked_prompts(published(misspelt=0), TEMPLATE), 0.02, 0).ok


@pytest.mark.slow
def test_a_rare_defect_is_caught_by_its_mark() -> None:
    """In 30 of 600 prompts: far too few to move the accuracy, but all on one side."""
    finding = label_leak(masked_prompts(published(misspelt=10), TEMPLATE), 0.02, 0)
    assert finding.numbers["accuracy"] < finding.numbers["allowed"]
    assert finding.ok is False
    assert any("'Chabot' (30 prompts" in example for example in finding.examples)


@pytest.mark.parametrize("difference", ["  ", "\n\n\n", "Answer", " ,"])
def test_any_difference_of_the_template_is_caught(difference: str) -> None:
    """White space and punctuation count: a template that differs by the label in nothing else."""
    prompts = [
        MaskedPrompt(
            f"Read:\n{pair.prompt[0].content}\n{difference if index % 2 else ''}{MASK}",
            "",
            index % 2 == 1,
            str(index),
            "",
        )
        for index, pair in enumerate(many_pairs(400))
    ]
    finding = label_leak(prompts, 0.02, 0)
    assert finding.ok is False
    assert finding.numbers["accuracy"] > 0.95


def test_a_repeated_name_is_caught() -> None:
    prompts = [
        MaskedPrompt("Chatbot A and Chatbot B" + " Chatbot B" * (index % 2), "", index % 2 == 1, str(index), "")
        for index in range(400)
    ]
    finding = label_leak(prompts, 0.02, 0)
    assert finding.ok is False
    assert any("'Chatbot' 3 times (200 prompts" in example for example in finding.examples)


@pytest.mark.slow
def test_a_source_that_is_always_shown_one_way_round_leaks() -> None:
    pairs = many_pairs(300, source="one") + many_pairs(300, source="two")
    marked = [replace(pair, prompt=(Message("user", f"{pair.source}: {pair.prompt[0].content}"),)) for pair in pairs]
    orders: dict[str, Order] = {"one": "chosen_first", "two": "chosen_second"}
    finding = label_leak(
        masked_prompts([Shown(pair, orders[pair.source], "train") for pair in marked], TEMPLATE), 0.02, 0
    )
    assert finding.ok is False
    assert finding.numbers["accuracy"] > 0.95


def test_prompts_with_one_question_are_never_on_both_sides() -> None:
    """Each question is asked 20 times with one label; seen in training, it would be remembered, not predicted."""
    prompts = [
        MaskedPrompt(f"{question} " * 3, "", hash_bit(question), str(question), "")
        for question in range(40)
        for _ in range(20)
    ]
    assert label_leak(prompts, 0.02, 0).numbers["accuracy"] < 0.75


def hash_bit(number: int) -> bool:
    return number * 2654435761 % 7 < 3


def test_too_little_to_tell() -> None:
    assert label_leak(masked_prompts(shown(many_pairs(50)), TEMPLATE), 0.02, 0).ok is None
    template = PromptTemplate("{conversation} {response_a} {response_b}")
    alike = [replace(pair, prompt=(Message("user", "Same"),)) for pair in many_pairs(200)]
    assert label_leak(masked_prompts(shown(alike), template), 0.02, 0).ok is None
