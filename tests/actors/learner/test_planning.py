"""Micro-batches: every sequence once, budgets kept, ranks in step, work balanced."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.planning import SequenceTooLong, pack, pack_prompts, plan
from actors.messages import TrainingSequence


def sequence(prompt: list[int], completion: list[int]) -> TrainingSequence:
    return TrainingSequence(np.array(prompt, np.int32), np.array(completion, np.int32))


@pytest.mark.slow
@given(st.lists(st.integers(1, 100), max_size=80), st.integers(1, 5), st.integers(100, 400))
def test_plan_keeps_its_promises(lengths: list[int], ranks: int, budget: int) -> None:
    planned = plan(lengths, ranks, budget)
    assert len(planned) == ranks
    assert sorted(index for rank in planned for micro in rank for index in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in planned}) == 1
    for micro in (micro for rank in planned for micro in rank if micro):
        assert len(micro) * max(lengths[index] for index in micro) <= budget
    # Dealt by length: two ranks differ by at most one sequence, and in tokens by at most the longest.
    work = [sum(lengths[index] for micro in rank for index in micro) for rank in planned]
    assert max(work) - min(work) <= max(lengths, default=0)


@given(st.lists(st.integers(1, 100), max_size=80), st.integers(1, 5), st.integers(100, 400))
def test_pack_keeps_its_promises(lengths: list[int], ranks: int, budget: int) -> None:
    packed = pack(lengths, ranks, budget)
    assert len(packed) == ranks
    assert sorted(index for rank in packed for micro in rank for index in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in packed}) == 1
    loads = [sum(lengths[index] for index in micro) for rank in packed for micro in rank if micro]
    assert all(load <= budget for load in loads)
    # At most one micro-batch can be half empty, another such one would have taken its sequences; unless a single round
    # does, whose work is spread evenly.
    if len(packed[0]) > 1:
        assert sum(load * 2 <= budget for load in loads) <= 1


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), max_size=60), st.integers(1, 4), st.integers(60, 300))
def test_pack_prompts_keeps_its_promises(drawn: list[tuple[int, int]], ranks: int, budget: int) -> None:
    items = [sequence([prompt] * (prompt * 4 + 1), [1] * length) for prompt, length in drawn]
    packed = pack_prompts(items, ranks, budget)
    assert sorted(index for rank in packed for micro in rank for index in micro) == list(range(len(items)))
    assert len({len(rank) for rank in packed}) == 1
    for micro in (micro for rank in packed for micro in rank):
        prompts = {items[index].prompt_ids.tobytes(): len(items[index].prompt_ids) for index in micro}
        assert sum(prompts.values()) + sum(len(items[index].completion_ids) for index in micro) <= budget


def test_a_prompt_counts_once_a_micro_batch() -> None:
    # Two prompts of 10 with three completions of 5 each: 25 a group. In rows of their own it would be 45.
    items = [sequence([prompt] * 10, [1] * 5) for prompt in (1, 1, 1, 2, 2, 2)]
    assert pack_prompts(items, ranks=1, token_budget=50) == [[[0, 1, 2, 3, 4, 5]]]
    assert [len(micro) for micro in pack_prompts(items, ranks=1, token_budget=25)[0]] == [3, 3]
    # With room for two completions, a group is cut and its prompt computed twice.
    assert sorted(len(micro) for micro in pack_prompts(items, ranks=1, token_budget=20)[0]) == [1, 1, 2, 2]
    with pytest.raises(SequenceTooLong, match="has 15 tokens"):
        pack_prompts(items, ranks=1, token_budget=14)


def test_pack_by_hand() -> None:
    # 8 opens a bin, 5 a second, 4 goes to 5 (room 1), 2 to 8 (room 0), 1 to 5 and 4: two full bins of 10.
    assert pack([8, 1, 5, 4, 2], ranks=2, token_budget=10) == [[[0, 4]], [[2, 3, 1]]]


def test_pack_reaches_the_lower_bound_but_for_one_bin() -> None:
    rng = random.Random(0)
    lengths = [min(16384, max(16, int(rng.lognormvariate(7.2, 0.8)))) for _ in range(4096)]
    packed = pack(lengths, ranks=8, token_budget=16384)
    assert sum(bool(micro) for rank in packed for micro in rank) <= -(-sum(lengths) // 16384) + 1
    loads = [sum(lengths[index] for micro in rank for index in micro) for rank in packed]
    assert max(loads) / min(loads) < 1.03


def test_plan_by_hand() -> None:
    # Longest first: 8 (0), 5 (2), 4 (3), 3 (1); rank 0 takes 8 and 4, rank 1 takes 5 and 3.
    assert plan([8, 3, 5, 4], ranks=2, token_budget=10) == [[[0], [3]], [[2, 1], []]]


def test_fewer_sequences_than_ranks_leave_empty_micro_batches() -> None:
    assert plan([4], ranks=3, token_budget=10) == [[[0]], [[]], [[]]]


def test_sequence_over_the_budget_is_named_with_the_key() -> None:
    with pytest.raises(SequenceTooLong, match=r"sequence 1 has 11 tokens.*learner\.micro_batch_tokens=10"):
        plan([3, 11], ranks=1, token_budget=10)
