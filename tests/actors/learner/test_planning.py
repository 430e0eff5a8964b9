"""Micro-batches: strict budgets, every sequence once, the same number of rounds on every rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.batching import collate
from actors.learner.planning import SequenceTooLong, plan
from actors.messages import TrainingSequence


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 5), st.integers(50, 200))
def test_plan_is_strict_complete_and_aligned(lengths: list[int], ranks: int, budget: int) -> None:
    parts = plan(lengths, ranks, budget)
    assert len(parts) == ranks
    assert sorted(index for rank in parts for micro in rank for index in micro) == list(range(len(lengths)))
    assert len({len(rank) for rank in parts}) == 1
    for rank in parts:
        for micro in rank:
            if micro:
                assert len(micro) * max(lengths[index] for index in micro) <= budget


@given(st.lists(st.integers(1, 50), min_size=8, max_size=80), st.integers(2, 4))
def test_ranks_get_nearly_the_same_tokens(lengths: list[int], ranks: int) -> None:
    loads = [sum(lengths[index] for micro in rank for index in micro) for rank in plan(lengths, ranks, 200)]
    # Dealing out in order of length, two ranks differ by at most the longest sequence.
    assert max(loads) - min(loads) <= max(lengths)


def test_plan_by_hand() -> None:
    # By length 9, 8, 5, 4 to ranks 0, 1, 0, 1; 2 x 9 > 12, so rank 0 needs two micro-batches, and 2 x 8 > 12 as well.
    assert plan([4, 9, 8, 5], 2, 12) == [[[1], [3]], [[2], [0]]]
    assert plan([4, 9, 8, 5], 2, 18) == [[[1, 3]], [[2, 0]]]
    assert plan([3], 2, 10) == [[[0]], [[]]]


def test_sequence_over_the_budget_names_the_setting() -> None:
    with pytest.raises(SequenceTooLong, match=r"sequence 1 has 11 tokens, more than learner\.micro_batch_tokens=10"):
        plan([3, 11], 1, 10)


def sequence(prompt: list[int], completion: list[int], advantage: float = 0.0) -> TrainingSequence:
    return TrainingSequence(
        np.array(prompt, np.int32),
        np.array(completion, np.int32),
        advantage,
        np.linspace(-1, -2, len(completion), dtype=np.float32),
    )


def test_collate_by_hand() -> None:
    batch = collate([sequence([1, 2], [3, 4, 5], 0.5), sequence([6], [7], -1.0)])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    # The state at position t predicts token t + 1: the last prompt token predicts the first completion token.
    assert batch.positions.tolist() == [1, 2, 3, 5]
    assert batch.targets.tolist() == [3, 4, 5, 7]
    assert batch.advantages.tolist() == [0.5, 0.5, 0.5, -1.0]
    assert batch.rollout_logprobs is not None
    assert batch.rollout_logprobs.tolist() == [-1.0, -1.5, -2.0, -1.0]
    assert batch.old_logprobs is None
    assert batch.counts == (3, 1)


def test_empty_micro_batch_scores_nothing() -> None:
    batch = collate([])
    assert batch.input_ids.shape == (1, 2)
    assert batch.attention_mask.sum() == 2
    assert len(batch.targets) == len(batch.positions) == 0
