"""Collation: which position predicts which token, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from actors.learner.batching import collate
from actors.messages import TrainingSequence


def sequence(prompt: list[int], completion: list[int], **rest: object) -> TrainingSequence:
    return TrainingSequence(np.array(prompt, np.int32), np.array(completion, np.int32), **rest)  # type: ignore[arg-type]


def test_collate_by_hand() -> None:
    batch = collate([sequence([5, 6, 7], [8, 9], advantage=0.5), sequence([3], [4, 2], advantage=-1.0)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [3, 4, 2, 0, 0]]
    # Row 0: positions 2 and 3 predict 8 and 9. Row 1 begins at 5: positions 5 and 6 predict 4 and 2.
    assert batch.positions.tolist() == [2, 3, 5, 6]
    assert batch.targets.tolist() == [8, 9, 4, 2]
    assert batch.advantages.tolist() == [0.5, 0.5, -1.0, -1.0]
    assert batch.counts == (2, 2)
    assert batch.rollout_logprobs is None
    assert batch.old_logprobs is None


def test_log_probabilities_follow_their_tokens() -> None:
    first = sequence([1], [2, 3], rollout_logprobs=np.array([-0.1, -0.2], np.float32))
    second = sequence([1], [4], rollout_logprobs=np.array([-0.3], np.float32))
    joined = collate([first, second]).rollout_logprobs
    assert joined is not None
    assert joined.tolist() == pytest.approx([-0.1, -0.2, -0.3])


def test_empty_micro_batch_scores_nothing_but_has_a_row_to_run() -> None:
    batch = collate([])
    assert batch.input_ids.shape == (1, 2)
    assert len(batch.positions) == len(batch.targets) == 0


def test_half_given_log_probabilities_are_refused() -> None:
    given = sequence([1], [2], old_logprobs=np.array([-0.1], np.float32))
    with pytest.raises(ValueError, match="with and without"):
        collate([given, sequence([1], [2])])


@pytest.mark.parametrize(("prompt", "completion"), [([], [1]), ([1], [])])
def test_sequence_without_tokens_is_refused(prompt: list[int], completion: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([sequence(prompt, completion)])


def test_packed_row_by_hand() -> None:
    shared = [sequence([5, 6], [7, 8], advantage=1.0), sequence([5, 6], [9], advantage=-1.0)]
    batch = collate([shared[0], sequence([3], [4, 2]), shared[1]], attention="sdpa")
    assert batch.position_ids is not None
    # The shared prompt once, its two completions, each going on at position 2; then the sequence that shares with none.
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9, 3, 4, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 1, 2]]
    # In the order given: 7 and 8 from the prompt's end and from 7; 4 and 2; 9 from the prompt's end.
    assert batch.positions.tolist() == [1, 2, 5, 6, 1]
    assert batch.targets.tolist() == [7, 8, 4, 2, 9]
    assert batch.advantages.tolist() == [1.0, 1.0, 0.0, 0.0, -1.0]
    assert batch.counts == (2, 2, 1)


def test_empty_packed_micro_batch_scores_nothing_but_has_a_row_to_run() -> None:
    batch = collate([], attention="sdpa")
    assert batch.input_ids.shape == (1, 2)
    assert batch.layout is not None
    assert len(batch.positions) == len(batch.targets) == 0
