"""Preference pairs for tests: enough of them for statistics, every text different, written from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from pipelines.data.schema import Message, PreferencePair

_WORDS = ("river", "stone", "lamp", "cloud", "paper", "green", "quiet", "seven", "market", "engine", "window", "garden")


def sentence(rng: random.Random, words: int) -> str:
    """Words that say nothing, with numbers so that no two sentences are alike."""
    return " ".join(rng.choices(_WORDS, k=words)) + f" {rng.randrange(10**9)}."


def many_pairs(
    count: int, *, source: str = "made", seed: int = 0, turns: int = 1, longer_wins: float = 0.5
) -> list[PreferencePair]:
    """Pairs of which a share ``longer_wins`` has a better response that is longer and begins with "Certainly"."""
    rng = random.Random(f"{source}/{seed}")
    pairs = []
    for index in range(count):
        messages = []
        for turn in range(turns):
            if turn:
                messages.append(Message("assistant", sentence(rng, 6)))
            messages.append(Message("user", sentence(rng, 12)))
        long, short = f"Certainly. {sentence(rng, 30)}", sentence(rng, 12)
        chosen, rejected = (long, short) if rng.random() < longer_wins else (short, long)
        pairs.append(PreferencePair(f"{source}/{index}", source, "chat", tuple(messages), chosen, rejected))
    return pairs


def swapped(pair: PreferencePair) -> PreferencePair:
    """The pair with the other response as the better one."""
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)
