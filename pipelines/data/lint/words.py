"""Texts as arrays of 64-bit numbers: words and runs of words, hashed the same in every process."""

from __future__ import annotations

import hashlib
import re

import numpy as np

_WORD = re.compile(r"\w+")
# Of a template every mark counts: case, punctuation, line breaks and doubled spaces.
_MARK = re.compile(r"\w+|[^\w\s]|\n+|[^\S\n]{2,}")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class _Hashes(dict[str, int]):
    """A word's number, computed once."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


class Words:
    """Texts to numbers; keeps every word it has seen, so that each is hashed once."""

    def __init__(self) -> None:
        self._hashes = _Hashes()

    def of(self, text: str) -> np.ndarray:
        """``[W]`` uint64: the text's words, lower case, without punctuation."""
        return self._array(_WORD.findall(text.lower()))

    def marks(self, text: str) -> tuple[list[str], np.ndarray]:
        """Every word as it is written, punctuation mark and break, and their numbers ``[M]``."""
        marks = _MARK.findall(text)
        return marks, self._array(marks)

    def _array(self, words: list[str]) -> np.ndarray:
        return np.array(list(map(self._hashes.__getitem__, words)), np.uint64)


def runs(words: np.ndarray, size: int) -> np.ndarray:
    """``[W - size + 1]`` uint64: one number for every run of ``size`` words; for a shorter text, one for all of it."""
    size = min(size, len(words))
    count = len(words) - size + 1 if size else 0
    result = np.zeros(count, np.uint64)
    for offset in range(size):
        result = mixed(result * _FACTOR + words[offset : offset + count])
    return result


def mixed(values: np.ndarray) -> np.ndarray:
    """The numbers with their bits spread, so that sums and products of them are as good as random (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
