"""Which sequences share a micro-batch: strict token budgets, balanced ranks, little padding."""

from __future__ import annotations

from collections.abc import Sequence


class SequenceTooLong(ValueError):
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
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    if order and lengths[order[0]] > token_budget:
        raise SequenceTooLong(
            f"sequence {order[0]} has {lengths[order[0]]} tokens, more than learner.micro_batch_tokens={token_budget}: "
            "raise that, or lower model.max_prompt_tokens or model.max_response_tokens"
        )
    # Dealt out by length, every rank gets almost the same multiset of lengths, and so the same work at every step.
    shares = [order[rank::ranks] for rank in range(ranks)]
    cuts = [_cut(share, lengths, token_budget) for share in shares]
    rounds = max(len(cut) for cut in cuts)
    return [cut + [[] for _ in range(rounds - len(cut))] for cut in cuts]


def _cut(share: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut one rank's indices, longest first, wherever the next row would exceed the budget."""
    batches: list[list[int]] = []
    for index in share:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
