"""Sequences end to end in one row, a prompt that several share once: no padding, and no prompt computed twice.

A *segment* is a stretch of the row. A root attends causally to itself: a prompt that is shared, or the whole of a
sequence that shares with none. A branch is a completion of a shared prompt: it attends to that root and causally to
itself, and its positions go on where the root ends. Everything but attention (``attention.py``) works on the row as it
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.learner.planning import by_prompt
from actors.messages import TrainingSequence


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the row; its root lies before it."""

    start: int
    length: int
    root: int = 0
    """Where its root starts."""
    root_length: int = 0
    """0: a root itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of a micro-batch as one row of T, and where each completion token is predicted."""

    input_ids: np.ndarray
    """[T] int64"""
    position_ids: np.ndarray
    """[T] int64"""
    predictors: list[np.ndarray]
    """For each sequence: places in the row whose hidden state predicts its completion tokens."""
    segments: list[Segment]


def pack_row(sequences: Sequence[TrainingSequence]) -> Row:
    """Lay sequences out in one row; without any, a row of two tokens that predicts nothing."""
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    segments: list[Segment] = []
    predictors: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sequences)
    end = 0

    def append(part: np.ndarray, first_position: int, root: int = 0, root_length: int = 0) -> int:
        nonlocal end
        start, end = end, end + len(part)
        tokens.append(part)
        positions.append(np.arange(first_position, first_position + len(part)))
        segments.append(Segment(start, len(part), root, root_length))
        return start

    for group in by_prompt(sequences):
        prompt = sequences[group[0]].prompt_ids
        if len(group) == 1:
            completion = sequences[group[0]].completion_ids
            start = append(np.concatenate([prompt, completion]), 0)
            predictors[group[0]] = np.arange(start + len(prompt) - 1, end - 1)
            continue
        root = append(prompt, 0)
        for index in group:
            start = append(sequences[index].completion_ids, len(prompt), root, len(prompt))
            predictors[index] = np.concatenate([[root + len(prompt) - 1], np.arange(start, end - 1)])
    if not segments:
        append(np.zeros(2, np.int64), 0)
    return Row(np.concatenate(tokens).astype(np.int64), np.concatenate(positions), predictors, segments)
