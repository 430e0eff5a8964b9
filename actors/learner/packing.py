"""Sequences end to end in one row, a prompt that several share once: no padding, and no prompt computed twice.

A *segment* is a stretch of the row. A root attends causally to itself: a prompt that is shared, or the whole of a
sequence that shares with none. A branch is a completion of a shared prompt: it attends to that root and causally to
itself, and its positions go on where the root ends. Everything but attention works on the row as it is; attention takes
segments of similar length together (:class:`Bucket`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from actors.learner.planning import by_prompt
from actors.messages import TrainingSequence

# A bucket's shortest segment is at least this share of its longest: bounds what padding costs attention.
_SIMILAR = 0.7


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of similar length, padded to one length for one call of attention."""

    count: int
    """n"""
    queries: int
    """L, places in each segment."""
    keys: int
    """K, places that each of its queries may attend to; for roots the same as L."""
    mask: torch.Tensor | None
    """[n or 1, 1, L, K] bool, what a query may see; None: causal."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the row's segments attend: places of all buckets one after another, so that a row is rearranged once."""

    buckets: tuple[Bucket, ...]
    queries: torch.Tensor
    """[sum of n * L] int64, places in the row; padding repeats a segment's first."""
    keys: torch.Tensor
    """[sum of n * K] int64"""
    back: torch.Tensor
    """[T] int64, where among the queries each place of the row is."""


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of a micro-batch as one row of T, and where each completion token is predicted."""

    input_ids: np.ndarray
    """[T] int64"""
    position_ids: np.ndarray
    """[T] int64"""
    predictors: list[np.ndarray]
    """For each sequence: places in the row whose hidden state predicts its completion tokens."""
    layout: Layout


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    length: int
    root: int = 0
    root_length: int = 0
    """0: a root itself."""


def pack_row(sequences: Sequence[TrainingSequence], device: str = "cpu") -> Row:
    """Lay sequences out in one row; without any, a row of two tokens that predicts nothing."""
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    segments: list[_Segment] = []
    predictors: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sequences)
    end = 0

    def append(part: np.ndarray, first_position: int, root: int = 0, root_length: int = 0) -> int:
        nonlocal end
        start, end = end, end + len(part)
        tokens.append(part)
        positions.append(np.arange(first_position, first_position + len(part)))
        segments.append(_Segment(start, len(part), root, root_length))
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
    return Row(
        np.concatenate(tokens).astype(np.int64), np.concatenate(positions), predictors, _layout(segments, end, device)
    )


def _layout(segments: Sequence[_Segment], size: int, device: str) -> Layout:
    buckets: list[Bucket] = []
    all_queries: list[np.ndarray] = []
    all_keys: list[np.ndarray] = []
    back = np.empty(size, np.int64)
    before = 0
    for branches in (False, True):
        chosen = [segment for segment in segments if bool(segment.root_length) == branches]
        for similar in _by_length(chosen):
            queries = _padded([np.arange(item.start, item.start + item.length) for item in similar])
            kept = np.flatnonzero(_lengths_mask([item.length for item in similar], queries.shape[1]))
            back[queries.reshape(-1)[kept]] = before + kept
            before += queries.size
            keys, mask = queries, None
            if branches:
                roots = _padded([np.arange(item.root, item.root + item.root_length) for item in similar])
                keys = np.concatenate([roots, queries], 1)
                seen = _branch_mask([item.root_length for item in similar], roots.shape[1], queries.shape[1])
                mask = torch.from_numpy(seen).to(device)
            all_queries.append(queries.reshape(-1))
            all_keys.append(keys.reshape(-1))
            buckets.append(Bucket(len(similar), queries.shape[1], keys.shape[1], mask))
    places = (np.concatenate(all_queries), np.concatenate(all_keys), back)
    return Layout(tuple(buckets), *(torch.from_numpy(array).to(device) for array in places))


def _by_length(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    buckets: list[list[_Segment]] = []
    for segment in sorted(segments, key=lambda item: -item.length):
        if buckets and segment.length >= _SIMILAR * buckets[-1][0].length:
            buckets[-1].append(segment)
        else:
            buckets.append([segment])
    return buckets


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """[n, longest]; the rest of a row repeats its first entry."""
    padded = np.repeat(np.array([row[0] for row in rows])[:, None], max(map(len, rows)), 1)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded


def _lengths_mask(lengths: Sequence[int], width: int) -> np.ndarray:
    return np.arange(width) < np.asarray(lengths)[:, None]


def _branch_mask(root_lengths: Sequence[int], root_width: int, width: int) -> np.ndarray:
    """[n or 1, 1, L, root_width + L]: the root's own tokens, and of the branch what came before."""
    causal = np.tril(np.ones((width, width), bool))
    distinct = root_lengths if len(set(root_lengths)) > 1 else root_lengths[:1]
    seen = _lengths_mask(distinct, root_width)[:, None, None, :]
    return np.concatenate(
        [
            np.broadcast_to(seen, (len(distinct), 1, width, root_width)),
            np.broadcast_to(causal, (len(distinct), 1, width, width)),
        ],
        axis=3,
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row, in the form that Transformers calls.

    Args:
        module: the attention layer; unused.
        query: [1, heads, T, D], rotary positions applied.
        key: [1, heads of keys, T, D].
        value: [1, heads of keys, T, D].
        attention_mask: None: Transformers makes no mask for attention it does not know.
        dropout: of attention weights.
        scaling: of scores; None: 1 / sqrt(D).
        layout: how segments attend.

    Returns:
        [1, T, heads, D], and no attention weights.

    Raises:
        ValueError: there is no layout, or a mask.

    """
    if layout is None or attention_mask is not None:
        raise ValueError("packed attention needs a layout and no mask")
    repeats = query.shape[1] // key.shape[1]

    def rearranged(tensor: torch.Tensor, places: torch.Tensor, widths: list[int]) -> list[torch.Tensor]:
        """[n, heads, width, D] for every bucket. One gather for all: in backward each is a pass over the whole row."""
        gathered = tensor[0].transpose(0, 1).index_select(0, places)
        sizes = [bucket.count * width for bucket, width in zip(layout.buckets, widths, strict=True)]
        parts = zip(gathered.split(sizes), layout.buckets, widths, strict=True)
        return [part.view(bucket.count, width, *part.shape[1:]).transpose(1, 2) for part, bucket, width in parts]

    queries = rearranged(query, layout.queries, [bucket.queries for bucket in layout.buckets])
    keys, values = (rearranged(each, layout.keys, [bucket.keys for bucket in layout.buckets]) for each in (key, value))
    outputs = []
    for bucket, own, seen, content in zip(layout.buckets, queries, keys, values, strict=True):
        attended = scaled_dot_product_attention(
            own,
            seen.repeat_interleave(repeats, 1) if repeats > 1 else seen,
            content.repeat_interleave(repeats, 1) if repeats > 1 else content,
            attn_mask=bucket.mask,
            dropout_p=dropout,
            is_causal=bucket.mask is None,
            scale=scaling,
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.back)[None], None
