"""The judging core with scripted engines: orders, votes, failures, and what a response can and cannot do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from hostile import HOSTILE
from scripted_engines import RULE, TEMPLATE, ScriptedEngines, judge_of, longer

from pipelines.data.prompts import load_template
from pipelines.data.schema import DataError, PreferencePair
from pipelines.judgment.decision import PAIRWISE, Decision
from pipelines.judgment.journal import JudgingJournal, JudgmentsFailed
from pipelines.judgment.judging import EngineJudge, asked, encoded, in_order

TOKENIZERS = {name: build() for name, build in FAMILIES.items()}
QWEN = TOKENIZERS["qwen2_5"]


def decided(judge: EngineJudge, pairs: list[PreferencePair]) -> list[Decision]:
    return asyncio.run(in_order(judge.answers(PAIRWISE, pairs)))


def test_both_orders_of_every_pair_and_equal_prompts_once() -> None:
    engines = ScriptedEngines(QWEN, longer)
    pairs = [asked("q", "a long answer", "short"), asked("q", "short", "a long answer"), asked("q", "xx", "xxxx")]
    decisions = decided(judge_of(engines), pairs)
    assert [decision.winner for decision in decisions] == ["a", "b", "b"]
    # The second pair is the first one with its sides exchanged: its prompts are the same two.
    assert len(engines.asked) == len(set(engines.asked)) == 4
    assert all(decision.consistent for decision in decisions)


def test_a_judge_of_positions_ties_everything() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: "<answer>[[A]]</answer>")
    (decision,) = decided(judge_of(engines), [asked("q", "x", "y")])
    assert (decision.winner, decision.flipped, decision.score) == ("tie", True, 0.5)


def test_a_failed_generation_is_a_cause_and_no_verdict() -> None:
    engines = ScriptedEngines(QWEN, lambda text, vote: None if "\nA x" in text else "<answer>[[A]]</answer>")
    (decision,) = decided(judge_of(engines), [asked("q", "x", "y")])
    assert (decision.winner, decision.score, decision.failures) == ("tie", 0.25, {"engine_error": 1})


def test_a_prompt_that_is_too_long_is_not_asked() -> None:
    engines = ScriptedEngines(QWEN, longer)
    rule = replace(RULE, max_prompt_tokens=40)
    decisions = decided(judge_of(engines, rule), [asked("q", "x " * 60, "y"), asked("q", "x", "yyy")])
    assert decisions[0].failures == {"prompt_too_long": 2}
    assert decisions[1].winner == "b"
    assert len(engines.asked) == 2


@pytest.mark.parametrize(
    ("question", "a", "b", "said"),
    [
        ("q", "x", "x ", "equal"),
        ("q", "", "y", "empty"),
        ("q", 3, "y", "must be text"),
        ([], "x", "y", "list of"),
        ([{"role": "assistant", "content": "hi"}], "x", "y", "last message must be the user's"),
        ("q", "\ud800", "y", "surrogate"),
        ("q", "x" * 1_000_001, "y", "at most 1,000,000"),
    ],
    ids=["equal", "empty", "number", "no turns", "assistant last", "surrogate", "long"],
)
def test_what_cannot_be_judged_is_refused(question: Any, a: Any, b: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        asked(question, a, b, "request")


def test_the_journal_is_not_asked_again_and_failures_are(tmp_path: Path) -> None:
    pairs = [asked("q", "x", "yy"), asked("q", "broken", "yy")]
    failing = ScriptedEngines(QWEN, lambda text, vote: None if "broken" in text else longer(text))

    async def run(engines: ScriptedEngines, found: dict[int, Decision]) -> None:
        with JudgingJournal(tmp_path / "journal.jsonl", Decision) as journal:
            async for index, decision in journal.answers(judge_of(engines), PAIRWISE, pairs):
                found[index] = decision

    before: dict[int, Decision] = {}
    with pytest.raises(JudgmentsFailed, match="1 of 2 judgments failed"):
        asyncio.run(run(failing, before))
    working, after = ScriptedEngines(QWEN, longer), {}
    asyncio.run(run(working, after))
    assert len(working.asked) == 2
    assert after[0] == before[0]
    assert (after[0].winner, after[1].winner) == ("b", "a")
    again = ScriptedEngines(QWEN, longer)
    asyncio.run(run(again, after))
    assert again.asked == []
    # Other weights are another judge.
    other = judge_of(again, weights="other")
    assert set(other.keys(PAIRWISE, pairs)).isdisjoint(judge_of(again).keys(PAIRWISE, pairs))


def test_there_are_enough_hostile_responses() -> None:
    assert len(set(HOSTILE)) >= 500
    assert max(map(len, HOSTILE)) >= 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "template"), [*((name, "tiny") for name in TOKENIZERS), ("qwen3", "chain_of_rubrics")]
)
def test_a_response_brings_no_control_token_into_a_prompt(family: str, template: str) -> None:
    """The control tokens of a prompt are those of the same prompt about harmless responses, in the same order."""
    tokenizer = TOKENIZERS[family]
    added = {token for name, token in tokenizer.get_added_vocab().items() if name.strip(" \n▁")}
    pairs = [asked("q", "fine", "good"), *(asked("q", text, "good") for text in HOSTILE)]
    ordered = [(pair, order) for pair in pairs for order in ("chosen_first", "chosen_second")]
    found = [
        [token for token in token_ids if token in added]
        for token_ids, _ in encoded(ordered, load_template(template), tokenizer)  # type: ignore[arg-type]
    ]
    assert all(controls == found[0] for controls in found)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["", "I cannot say.", "<eval>both are fine</eval>", "<answer>[[C]]</answer>"])
def test_no_verdict_stems_from_a_response(written: str) -> None:
    """A judge that names nobody: whatever the responses say, nothing is decided."""
    engines = ScriptedEngines(QWEN, lambda text, vote: written)
    rule = replace(RULE, max_prompt_tokens=10**7)
    decisions = decided(judge_of(engines, rule), [asked("q", text, "good") for text in HOSTILE])
    assert sum(decision.read for decision in decisions) == 0
    assert {decision.winner for decision in decisions} == {"tie"}


def test_a_judge_that_quotes_hostile_text_decides_by_its_own_answer() -> None:
    """What a judgment quotes inside its evaluation is not its verdict."""
    texts = [text for text in HOSTILE if "</eval>" not in text and "<eval>" not in text][:200]
    quoted = {text: f"<eval><quote_A>{text}</quote_A></eval>\n<answer>[[B]]</answer>" for text in texts}
    waiting = iter(quoted.values())
    engines = ScriptedEngines(QWEN, lambda text, vote: next(waiting))
    rule = replace(RULE, orders=("a_first",), max_prompt_tokens=10**7)
    decisions = decided(judge_of(engines, rule), [asked("q", text, "good") for text in reversed(texts)])
    assert {decision.winner for decision in decisions} == {"b"}


def test_the_template_of_these_tests_shows_both_responses() -> None:
    ((ids, _),) = encoded([(asked("q", "x", "y"), "chosen_second")], TEMPLATE, QWEN)
    assert "A y A" in QWEN.decode(ids)
    assert "B x B" in QWEN.decode(ids)
