"""From the sequences of a micro-batch to padded tensors, with the completion tokens as flat vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.messages import TrainingSequence


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """A micro-batch: B rows padded on the right to T, and its N completion tokens as flat vectors.

    There is no attention mask: under causal attention no token sees the padding to its right, nothing is scored there,
    and attention without a mask takes the fast kernels.
    """

    input_ids: torch.Tensor
    """[B, T] int64"""
    positions: torch.Tensor
    """[N] int64, index into B*T of the position that predicts each completion token"""
    targets: torch.Tensor
    """[N] int64, the completion tokens"""
    advantages: torch.Tensor
    """[N] float32"""
    rollout_logprobs: torch.Tensor | None
    """[N] float32, None for supervised sequences"""
    old_logprobs: torch.Tensor | None
    """[N] float32, None where the step's own serve"""
    counts: tuple[int, ...]
    """Completion tokens of each row; they sum to N"""


def collate(sequences: Sequence[TrainingSequence], device: str = "cpu") -> PaddedBatch:
    """Pad a micro-batch. An empty one becomes a single row of two tokens that scores nothing: ranks without work
    still take part in every collective.

    Raises:
        ValueError: a prompt or completion without tokens, or log-probabilities that some sequences have and some lack.

    """
    for sequence in sequences:
        if not len(sequence.prompt_ids) or not len(sequence.completion_ids):
            raise ValueError("a training sequence needs at least one prompt token and one completion token")
    rows = [np.concatenate([sequence.prompt_ids, sequence.completion_ids]) for sequence in sequences]
    width = max((len(row) for row in rows), default=2)
    input_ids = np.zeros((max(1, len(rows)), width), dtype=np.int64)
    positions: list[np.ndarray] = []
    for index, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
        input_ids[index, : len(row)] = row
        start = index * width + len(sequence.prompt_ids) - 1
        positions.append(np.arange(start, start + len(sequence.completion_ids)))

    def flat(arrays: list[np.ndarray], kind: type) -> torch.Tensor:
        joined = np.concatenate(arrays) if arrays else np.zeros(0)
        return torch.from_numpy(joined.astype(kind)).to(device)

    def optional(arrays: list[np.ndarray | None]) -> torch.Tensor | None:
        present = [array for array in arrays if array is not None]
        if len(present) not in (0, len(arrays)):
            raise ValueError("a micro-batch holds sequences with and without log-probabilities")
        return flat(present, np.float32) if present else None

    counts = tuple(len(sequence.completion_ids) for sequence in sequences)
    return PaddedBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        positions=flat(positions, np.int64),
        targets=flat([sequence.completion_ids for sequence in sequences], np.int64),
        advantages=flat(
            [np.full(count, sequence.advantage) for count, sequence in zip(counts, sequences, strict=True)], np.float32
        ),
        rollout_logprobs=optional([sequence.rollout_logprobs for sequence in sequences]),
        old_logprobs=optional([sequence.old_logprobs for sequence in sequences]),
        counts=counts,
    )
