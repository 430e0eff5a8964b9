"""What votes become: winner, score, confidence, flips, failures; by hand-worked numbers."""

from __future__ import annotations

import json

import pytest

from pipelines.judgment.decision import Decision, PairVote, decide


def vote(order: str, winner: str | None, number: int = 0, probability: float | None = 0.9, text: str = "") -> PairVote:
    return PairVote(
        order=order,  # type: ignore[arg-type]
        number=number,
        winner=winner,  # type: ignore[arg-type]
        cause=None if winner else "none_found",
        probability=probability,
        text=text,
        prompt_tokens=10,
        completion_tokens=5,
        prompt_hash=f"hash {order}",
    )


def test_both_orders_for_a() -> None:
    decision = decide([vote("a_first", "a", probability=0.9), vote("b_first", "a", probability=0.7)], "m", "w")
    assert (decision.winner, decision.score, decision.consistent, decision.flipped) == ("a", 1.0, True, False)
    assert decision.confidence == pytest.approx(0.8)
    assert decision.verdicts == {"a_first": "a", "b_first": "a"}
    assert decision.usage == {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}


def test_a_flip_is_a_tie_with_its_own_flag() -> None:
    decision = decide([vote("a_first", "a", probability=0.8), vote("b_first", "b", probability=0.6)], "m", "w")
    assert (decision.winner, decision.score, decision.consistent, decision.flipped) == ("tie", 0.5, False, True)
    # a has 0.8 and 1 - 0.6: s = 0.6, and 1 - |2 * 0.6 - 1| = 0.8.
    assert decision.confidence == pytest.approx(0.8)


def test_what_was_not_read_counts_half_and_no_response_wins_by_one_order() -> None:
    decision = decide([vote("a_first", "b"), vote("b_first", None)], "m", "w")
    assert (decision.winner, decision.score, decision.consistent, decision.flipped) == ("tie", 0.25, False, False)
    assert decision.failures == {"none_found": 1}
    assert decision.read == 1
    nothing = decide([vote("a_first", None), vote("b_first", None)], "m", "w")
    assert (nothing.winner, nothing.score, nothing.consistent, nothing.rationale) == ("tie", 0.5, False, None)


def test_votes_are_counted_by_order() -> None:
    votes = [vote("a_first", side, number) for number, side in enumerate("aab")]
    votes += [vote("b_first", side, number) for number, side in enumerate("aaa")]
    decision = decide(votes, "m", "w")
    assert (decision.winner, decision.score, decision.consistent) == ("a", pytest.approx((2 / 3 + 1) / 2), True)


def test_one_order_alone_says_nothing_of_consistency() -> None:
    decision = decide([vote("b_first", "b")], "m", "w")
    assert (decision.winner, decision.consistent, decision.verdicts) == ("b", None, {"b_first": "b"})


def test_the_rationale_is_of_a_vote_for_the_winner() -> None:
    text = "<type>Chat</type><rubric>clear<justify>so</justify></rubric><eval>B is clearer</eval><answer>[[B]]</answer>"
    decision = decide([vote("a_first", "b", text=text), vote("b_first", "b", text="other")], "m", "w")
    assert decision.rationale is not None
    found = decision.rationale
    assert (found.order, found.type, found.evaluation, found.solution) == ("a_first", "Chat", "B is clearer", None)
    assert found.rubric is not None
    assert found.rubric.startswith("clear")


def test_a_decision_is_read_back_from_json() -> None:
    decision = decide([vote("a_first", "a", text="x"), vote("b_first", None)], "m", "w")
    assert Decision.of_json(json.loads(json.dumps(decision.as_json()))) == decision
