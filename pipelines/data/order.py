"""The order in which training items are visited: one shuffled stream, a pure function of seed and position.

Each step reads the next slice of the stream. So a resumed run needs only its step number to continue at the right item,
and an epoch may end within a batch.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache


def slice_of_stream(count: int, seed: int, start: int, stop: int) -> list[int]:
    """Positions ``start`` to ``stop`` of the endless stream of items ``0..count-1``, reshuffled every epoch.

    Every epoch holds every item once, whatever the slices are.
    """
    if count < 1:
        raise ValueError("there is nothing to visit: the stream has no items")
    indices: list[int] = []
    while start < stop:
        epoch, offset = divmod(start, count)
        taken = _epoch(count, seed, epoch)[offset : offset + stop - start]
        indices.extend(taken)
        start += len(taken)
    return indices


# The items of a step may be asked for one by one, and around an epoch's end of two epochs in turn.
@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


def steps_for(count: int, epochs: int, batch: int) -> int:
    """How many steps of ``batch`` items make ``epochs`` passes over ``count`` items; the last step may be smaller."""
    return math.ceil(count * epochs / batch)


def refill_of(count: int, seed: int, wanted: int, step: int, number: int, exclude: Collection[int]) -> list[int]:
    """Items that refill the batch of step ``step`` in round ``number``: drawn at random without repeats.

    The draw is a function of the arguments. Items in ``exclude`` are not drawn; where fewer than ``wanted`` others are
    left, all of them are.
    """
    rest = [index for index in range(count) if index not in set(exclude)]
    return random.Random(f"{seed}/refill/{step}/{number}").sample(rest, min(wanted, len(rest)))


def rounds_of(items: Sequence[int]) -> list[list[int]]:
    """Split items into rounds without repeats, as few as there can be, and give each as places in ``items``.

    An item comes twice where an epoch ends within a batch, and more often in a batch larger than the data.
    """
    rounds: list[list[int]] = []
    times: Counter[int] = Counter()
    for place, item in enumerate(items):
        if times[item] == len(rounds):
            rounds.append([])
        rounds[times[item]].append(place)
        times[item] += 1
    return rounds


def batch_of(count: int, seed: int, batch: int, step: int, epochs: int) -> list[int]:
    """The items of step ``step`` (from 0) when ``epochs`` passes are made; never reaches past the last epoch."""
    return slice_of_stream(count, seed, step * batch, min((step + 1) * batch, count * epochs))
