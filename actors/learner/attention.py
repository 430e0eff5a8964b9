"""Attention of packed rows: what segments (``packing.py``) attend to, in two ways that give the same.

``sdpa`` takes segments of similar length together and calls torch's kernels on each such bucket: the reference, and
fast on CPU. ``flex`` is one kernel for the whole row (Dong et al. 2024, arXiv 2412.05496), which skips blocks of places
that do not see each other: no mask of tokens x tokens, and keys are not repeated to all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from actors.learner.choices import ATTENTIONS, chosen
from actors.learner.packing import Segment

# A bucket's shortest segment is at least this share of its longest: bounds what padding costs attention.
_SIMILAR = 0.7
_BLOCK = 128
"""Places of a block, either way; flex attention's own default."""


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


def layout(kind: str, segments: Sequence[Segment], size: int, device: str) -> Layout | BlockMask:
    """How the segments of a row of ``size`` places attend, in the form that attention of this kind takes.

    Raises:
        ValueError: another kind.

    """
    return chosen("attention", ATTENTIONS, kind, globals())(segments, size, device)


def buckets(segments: Sequence[Segment], size: int, device: str) -> Layout:
    """Segments by length."""
    made: list[Bucket] = []
    all_queries: list[np.ndarray] = []
    all_keys: list[np.ndarray] = []
    back = np.empty(size, np.int64)
    before = 0
    for branches in (False, True):
        kind = [segment for segment in segments if bool(segment.root_length) == branches]
        for similar in _by_length(kind):
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
            made.append(Bucket(len(similar), queries.shape[1], keys.shape[1], mask))
    places = (np.concatenate(all_queries), np.concatenate(all_keys), back)
    return Layout(tuple(made), *(torch.from_numpy(array).to(device) for array in places))


def _by_length(segments: Sequence[Segment]) -> list[list[Segment]]:
    buckets: list[list[Segment]] = []
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


def block_mask(segments: Sequence[Segment], size: int, device: str) -> BlockMask:
    """Which blocks of places see each other, in whole or in part; within the latter, places are compared."""
    blocks = -(-size // _BLOCK)
    seen = np.zeros((blocks, blocks), bool)
    # How many places of a block of queries see all of a block of keys, in their own segment or in its root.
    whole = np.zeros((blocks, blocks), np.int64)
    names, roots = np.empty(size, np.int32), np.empty(size, np.int32)
    for segment in segments:
        start, end = segment.start, segment.start + segment.length
        names[start:end], roots[start:end] = start, segment.root if segment.root_length else start
        first, last = start // _BLOCK, (end - 1) // _BLOCK
        for row in range(first, last + 1):
            count = min(end, (row + 1) * _BLOCK) - max(start, row * _BLOCK)
            # Of the segment itself, all blocks before this one are in the past; of its root, all blocks are.
            for begin, stop in ((start, min(end, row * _BLOCK)), (segment.root, segment.root + segment.root_length)):
                if begin < stop:
                    seen[row, begin // _BLOCK : (stop - 1) // _BLOCK + 1] = True
                    whole[row, -(-begin // _BLOCK) : stop // _BLOCK] += count
            seen[row, row] = True
    full = whole == _BLOCK
    of_place, of_root = torch.from_numpy(names).to(device), torch.from_numpy(roots).to(device)

    def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        own = of_place[key]
        return (key <= query) & ((own == of_place[query]) | (own == of_root[query]))

    return BlockMask.from_kv_blocks(
        *_in_order(seen & ~full, device),
        *_in_order(full, device),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(size, size),
    )


def _in_order(chosen_blocks: np.ndarray, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks each row chooses, [1, 1, R], and which, [1, 1, R, R]: the chosen first."""
    order = np.argsort(~chosen_blocks, axis=1, kind="stable").astype(np.int32)
    counts = chosen_blocks.sum(1, dtype=np.int32)
    return torch.from_numpy(counts[None, None]).to(device), torch.from_numpy(order[None, None]).to(device)


@cache
def _flex() -> Callable[..., Any]:
    # Compiled for rows of any length. Without `fullgraph`, too many variants would end in an uncompiled one, which
    # makes all scores.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def flex_packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: BlockMask | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """:func:`packed_attention` by one kernel; arguments, result and errors are the same, but that dropout must be 0."""
    if layout is None or attention_mask is not None or dropout:
        raise ValueError("flex attention needs a block mask and no other mask, and has no dropout")
    attended = _flex()(
        query,
        key,
        value,
        block_mask=layout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
        # Not the kernel of short queries, which wants heads to share keys by powers of two.
        kernel_options={"BACKEND": "TRITON"},
    )
    return attended.transpose(1, 2), None


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
