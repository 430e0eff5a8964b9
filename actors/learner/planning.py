"""Which sequences share a micro-batch: strict token budgets, balanced ranks, little padding."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush

from actors.errors import UserError
from actors.messages import TrainingSequence


class SequenceTooLong(UserError, ValueError):
    """A sequence does not fit a micro-batch on its own."""


def plan(lengths: Sequence[int], ranks: int, token_budget: int) -> list[list[list[int]]]:
    """Cut sequences into micro-batches: rank -> micro-batch -> indices into ``lengths``.

    Every index occurs once. Rows of a micro-batch times its longest row never exceed ``token_budget``. Neighbours in
    length share a micro-batch, so little of it is padding. Ranks get the same number of micro-batches, since each one
    is a round of collectives; where sequences are too few, some micro-batches are empty. Sorting and cutting is
    O(n log n).

    Raises:
        SequenceTooLong: one sequence exceeds the budget.

    """
    _refuse_too_long(lengths, token_budget)
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    # Dealt out by length, every rank gets almost the same multiset of lengths, and so the same work at every step.
    shares = [order[rank::ranks] for rank in range(ranks)]
    cuts = [_cut(share, lengths, token_budget) for share in shares]
    rounds = max(len(cut) for cut in cuts)
    return [cut + [[] for _ in range(rounds - len(cut))] for cut in cuts]


def pack(lengths: Sequence[int], ranks: int, token_budget: int) -> list[list[list[int]]]:
    """Pack sequences end to end into micro-batches without padding: rank -> micro-batch -> indices into ``lengths``.

    First-fit decreasing, one micro-batch after another: always the longest sequence that still fits, found by
    bisection. Tokens of a micro-batch never exceed ``token_budget``; every index occurs once; ranks get the same number
    of micro-batches, some of which are empty where sequences are too few, and almost the same number of tokens.

    Raises:
        SequenceTooLong: one sequence exceeds the budget.

    """
    _refuse_too_long(lengths, token_budget)
    if len(shares := _one_each(lengths, ranks, token_budget)) == ranks:
        return [[share] for share in shares]
    # Length and index as one number: sorts by length, and is taken apart again without a lookup.
    base = len(lengths)
    waiting = sorted(length * base + index for index, length in enumerate(lengths))
    bins: list[list[int]] = []
    loads: list[int] = []
    shortest = waiting[0] if waiting else 0  # It leaves last of all.
    while waiting:
        longest = waiting.pop()
        micro = [longest % base]
        # Room for a key: a length that fits times the base, and any index.
        room = (token_budget + 1) * base - longest // base * base
        while room > shortest and (place := bisect_left(waiting, room)):
            key = waiting.pop(place - 1)
            index = key % base
            micro.append(index)
            room -= key - index
        bins.append(micro)
        loads.append(token_budget + 1 - room // base)
    return _deal(bins, loads, ranks)


def _one_each(lengths: Sequence[int], ranks: int, token_budget: int) -> list[list[int]]:
    """One micro-batch per rank with almost the same tokens each, or nothing where a single round is not enough."""
    if sum(lengths) > ranks * token_budget:
        return []
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        load, rank = heappop(loads)
        if load + lengths[index] > token_budget:
            return []
        shares[rank].append(index)
        heappush(loads, (load + lengths[index], rank))
    return shares


def by_prompt(sequences: Sequence[TrainingSequence]) -> list[list[int]]:
    """Indices of sequences by their prompt, in order of first occurrence."""
    groups: dict[bytes, list[int]] = {}
    for index, sequence in enumerate(sequences):
        groups.setdefault(sequence.prompt_ids.tobytes(), []).append(index)
    return list(groups.values())


def pack_prompts(sequences: Sequence[TrainingSequence], ranks: int, token_budget: int) -> list[list[list[int]]]:
    """:func:`pack` where a prompt counts once per micro-batch: sequences of one prompt stay together where they can.

    A group is cut where it would exceed the budget, and where ranks would otherwise go without work.

    Raises:
        SequenceTooLong: one sequence exceeds the budget.

    """
    _refuse_too_long([len(item.prompt_ids) + len(item.completion_ids) for item in sequences], token_budget)
    groups = by_prompt(sequences)
    # Two parts per rank balance well enough; cutting further would compute prompts again.
    pieces = max(1, -(-2 * ranks // max(1, len(groups))))
    units: list[list[int]] = []
    lengths: list[int] = []
    for group in groups:
        shared = len(sequences[group[0]].prompt_ids)
        for piece in range(pieces):
            for index in group[piece::pieces]:
                length = len(sequences[index].completion_ids)
                if index == group[piece] or lengths[-1] + length > token_budget:
                    units.append([])
                    lengths.append(shared)
                units[-1].append(index)
                lengths[-1] += length
    packed = pack(lengths, ranks, token_budget)
    return [[[index for unit in micro for index in units[unit]] for micro in rank] for rank in packed]


def _deal(bins: Sequence[list[int]], loads: Sequence[int], ranks: int) -> list[list[list[int]]]:
    """Deal micro-batches out, fullest first, each to the rank with the fewest tokens among those with a free place."""
    rounds = max(1, -(-len(bins) // ranks))
    parts: list[list[list[int]]] = [[] for _ in range(ranks)]
    free = [(0, rank) for rank in range(ranks)]
    for micro in sorted(range(len(bins)), key=loads.__getitem__, reverse=True):
        total, rank = heappop(free)
        parts[rank].append(bins[micro])
        if len(parts[rank]) < rounds:
            heappush(free, (total + loads[micro], rank))
    return [part + [[] for _ in range(rounds - len(part))] for part in parts]


def _refuse_too_long(lengths: Sequence[int], token_budget: int) -> None:
    longest = max(lengths, default=0)
    if longest > token_budget:
        raise SequenceTooLong(
            f"sequence {list(lengths).index(longest)} has {longest} tokens, more than "
            f"learner.micro_batch_tokens={token_budget}: raise that, or lower model.max_prompt_tokens or "
            "model.max_response_tokens"
        )


def _cut(share: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut one rank's indices, longest first, wherever the next row would exceed the budget."""
    batches: list[list[int]] = []
    for index in share:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
