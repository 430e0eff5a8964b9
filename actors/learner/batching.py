"""From the sequences of a micro-batch to tensors, padded or packed, with the completion tokens as flat vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from actors.learner.attention import Layout, layout
from actors.learner.packing import pack_row
from actors.messages import TrainingSequence


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch: B rows of T tokens, and its N completion tokens as flat vectors.

    Padded, a sequence is a row, filled up on the right. There is no attention mask: under causal attention no token
    sees the padding to its right, nothing is scored there, and attention without a mask takes the fast kernels. Packed,
    there is one row, and a layout that says what attends to what.
    """

    input_ids: torch.Tensor
    """[B, T] int64"""
    position_ids: torch.Tensor | None
    """[1, T] int64 of a packed row"""
    layout: Layout | BlockMask | None
    """Of a packed row"""
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


def collate(sequences: Sequence[TrainingSequence], device: str = "cpu", attention: str | None = None) -> Batch:
    """Make a micro-batch: a packed row for this kind of attention, or padded rows where there is none.

    An empty one becomes a single row of two tokens that scores nothing: ranks without work still take part in every
    collective.

    Raises:
        ValueError: a prompt or completion without tokens, or log-probabilities that some sequences have and some lack.

    """
    for sequence in sequences:
        if not len(sequence.prompt_ids) or not len(sequence.completion_ids):
            raise ValueError("a training sequence needs at least one prompt token and one completion token")
    position_ids: torch.Tensor | None = None
    attends: Layout | BlockMask | None = None
    if attention is not None:
        row = pack_row(sequences)
        input_ids, positions = row.input_ids[None], row.predictors
        attends = layout(attention, row.segments, len(row.input_ids), device)
        position_ids = torch.from_numpy(row.position_ids[None]).to(device)
    else:
        input_ids, positions = _padded_rows(sequences)

    def flat(arrays: list[np.ndarray], kind: type) -> torch.Tensor:
        joined = np.concatenate(arrays) if arrays else np.zeros(0)
        return torch.from_numpy(joined.astype(kind)).to(device)

    def optional(arrays: list[np.ndarray | None]) -> torch.Tensor | None:
        present = [array for array in arrays if array is not None]
        if len(present) not in (0, len(arrays)):
            raise ValueError("a micro-batch holds sequences with and without log-probabilities")
        return flat(present, np.float32) if present else None

    counts = tuple(len(sequence.completion_ids) for sequence in sequences)
    return Batch(
        input_ids=torch.from_numpy(input_ids).to(device),
        position_ids=position_ids,
        layout=attends,
        positions=flat(positions, np.int64),
        targets=flat([sequence.completion_ids for sequence in sequences], np.int64),
        advantages=flat(
            [np.full(count, sequence.advantage) for count, sequence in zip(counts, sequences, strict=True)], np.float32
        ),
        rollout_logprobs=optional([sequence.rollout_logprobs for sequence in sequences]),
        old_logprobs=optional([sequence.old_logprobs for sequence in sequences]),
        counts=counts,
    )


def _padded_rows(sequences: Sequence[TrainingSequence]) -> tuple[np.ndarray, list[np.ndarray]]:
    """[B, T] tokens, and for each sequence the places in B*T that predict its completion tokens."""
    rows = [np.concatenate([sequence.prompt_ids, sequence.completion_ids]) for sequence in sequences]
    width = max((len(row) for row in rows), default=2)
    input_ids = np.zeros((max(1, len(rows)), width), dtype=np.int64)
    positions: list[np.ndarray] = []
    for index, (row, sequence) in enumerate(zip(rows, sequences, strict=True)):
        input_ids[index, : len(row)] = row
        start = index * width + len(sequence.prompt_ids) - 1
        positions.append(np.arange(start, start + len(sequence.completion_ids)))
    return input_ids, positions
