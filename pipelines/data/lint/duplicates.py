"""Duplicates: pairs that are equal, that contradict each other, or that share most of their words (MinHash)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.lint.findings import Finding
from pipelines.data.lint.words import Words, mixed, runs
from pipelines.data.schema import PreferencePair, content_key, normalised, prompt_key

_RUN = 5
_BANDS, _ROWS = 10, 4
_EXAMPLES = 5

Splits = Mapping[str, Sequence[PreferencePair]]
"""Pairs by the name of their split; the first one is what is trained on."""


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two pairs, by position in a sequence, that share most of their word 5-grams."""

    earlier: int
    later: int
    similarity: float


def exact(splits: Splits) -> list[Finding]:
    """Equal pairs and contradictions within splits; pairs and prompts that are in two splits."""
    repeated, opposed, examples = 0, 0, []
    for name, pairs in splits.items():
        seen: dict[str, PreferencePair] = {}
        for pair in pairs:
            first = seen.setdefault(content_key(pair), pair)
            if first is pair:
                continue
            if _is_opposed(pair, first):
                opposed += 1
                examples.append(f"{name}: {pair.id} and {first.id}")
            else:
                repeated += 1
    total = sum(map(len, splits.values()))
    return [
        Finding("duplicates", not repeated, f"{repeated} of {total} pairs repeat another", {"pairs": repeated}),
        Finding(
            "contradictions",
            not opposed,
            f"{opposed} pairs repeat another with the other response as the better one",
            {"pairs": opposed},
            tuple(examples[:_EXAMPLES]),
        ),
        _across(splits),
    ]


def _is_opposed(pair: PreferencePair, other: PreferencePair) -> bool:
    return normalised(pair.chosen) != normalised(other.chosen)


def _across(splits: Splits) -> Finding:
    if len(splits) < 2:
        return Finding("duplicates_across_splits", None, "there is one split")
    homes: dict[str, set[str]] = defaultdict(set)
    for name, pairs in splits.items():
        for pair in pairs:
            homes[prompt_key(pair)].add(name)
    shared = [(name, pair) for name, pairs in splits.items() for pair in pairs if len(homes[prompt_key(pair)]) > 1]
    counts = Counter(name for name, _ in shared)
    prompts = len({prompt_key(pair) for _, pair in shared})
    listed = ", ".join(f"{counts[name]} of {len(splits[name])} pairs of {name}" for name in splits)
    return Finding(
        "duplicates_across_splits",
        not shared,
        f"{prompts} prompts are in two splits ({listed})" if shared else "no prompt is in two splits",
        {"prompts": prompts, **{f"pairs_{name}": counts[name] for name in splits}},
        tuple(f"{name}: {pair.id}" for name, pair in shared[:_EXAMPLES]),
    )


def near(splits: Splits, similarity: float) -> list[Finding]:
    """Near duplicates within and across splits, exact ones aside."""
    names = [name for name, pairs in splits.items() for _ in pairs]
    pairs = [pair for split in splits.values() for pair in split]
    found = near_pairs(pairs, similarity)
    across = [item for item in found if names[item.earlier] != names[item.later]]
    within = [item for item in found if names[item.earlier] == names[item.later]]

    def finding(check: str, items: list[NearPair], where: str) -> Finding:
        count = len({item.later for item in items})
        listed = tuple(
            f"{pairs[item.later].id} and {pairs[item.earlier].id} ({item.similarity:.2f})" for item in items[:_EXAMPLES]
        )
        return Finding(check, not count, f"{count} pairs nearly repeat one {where}", {"pairs": count}, listed)

    return [
        finding("near_duplicates", within, "of their split"),
        finding("near_duplicates_across_splits", across, "of another split")
        if len(splits) > 1
        else Finding("near_duplicates_across_splits", None, "there is one split"),
    ]


def near_pairs(pairs: Sequence[PreferencePair], similarity: float) -> list[NearPair]:
    """Pairs of pairs whose sets of word 5-grams have a Jaccard similarity of at least ``similarity``.

    MinHash signatures of 40 numbers in 10 bands of 4 propose them (at 0.8 one in two hundred is missed, at 0.9 one in
    forty thousand); the sets themselves decide. Each pair is compared with the first and the latest of its band only,
    so that a large cluster costs no more than its size. Exact duplicates are not reported.
    """
    words = Words()
    shingles = [_shingles(pair, words) for pair in pairs]
    keys = [content_key(pair) for pair in pairs]
    signatures = _signatures(shingles)
    proposed: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        first: dict[bytes, int] = {}
        latest: dict[bytes, int] = {}
        for index, signature in enumerate(signatures[:, band * _ROWS : (band + 1) * _ROWS]):
            key = signature.tobytes()
            if key in first:
                proposed |= {(first[key], index), (latest[key], index)}
            first.setdefault(key, index)
            latest[key] = index
    found = []
    for earlier, later in sorted(proposed):
        if keys[earlier] == keys[later]:
            continue
        common = len(np.intersect1d(shingles[earlier], shingles[later], assume_unique=True))
        jaccard = common / (len(shingles[earlier]) + len(shingles[later]) - common)
        if jaccard >= similarity:
            found.append(NearPair(earlier, later, jaccard))
    return found


def _shingles(pair: PreferencePair, words: Words) -> np.ndarray:
    """Distinct word 5-grams of prompt and responses ``[S]``, each text by itself."""
    texts = [message.content for message in pair.prompt]
    texts += [] if pair.ready_made else [pair.chosen, pair.rejected]
    return np.unique(np.concatenate([runs(words.of(text), _RUN) for text in texts]))


def _signatures(shingles: Sequence[np.ndarray]) -> np.ndarray:
    """MinHash ``[N, bands * rows]`` uint64; a row without words is like no other."""
    salts = mixed(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64))
    result = np.empty((len(shingles), len(salts)), np.uint64)
    for index, row in enumerate(shingles):
        # Multiplying by an odd number and adding permutes 64-bit numbers; cheaper than hashing anew.
        result[index] = (
            (row[:, None] * (salts | np.uint64(1)) + (salts >> np.uint64(7))).min(axis=0) if len(row) else index
        )
    return result
