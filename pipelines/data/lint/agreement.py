"""Label agreement: do the labels of a source follow what the other sources reward?

A small preference model (length, markdown, and the words that only one of the responses has) learns from all other
sources and guesses this one's labels. Sources of a kind agree, well above one half. Far below it, the labels of a
source are most likely swapped, or it rewards the opposite: a set for refusals beside one for helpfulness.
"""

from __future__ import annotations

import math
import random

import numpy as np

from pipelines.data.lint.findings import Finding
from pipelines.data.lint.linear import fit, sparse, telling
from pipelines.data.lint.responses import BySource, Figures
from pipelines.data.lint.words import Words

_BITS = 18
_STYLE = 3
_MOST = 3000
_LEAST = 100
_FEATURES = 1000


def label_agreement(by_source: BySource, seed: int) -> Finding:
    """Accuracy, on each source, of a model that learned from all others; ``numbers["by_source"]``."""
    name = "label_agreement"
    groups = {source: group for source, group in by_source.items() if len(group) >= _LEAST}
    if len(groups) < 2:
        return Finding(name, None, f"fewer than two sources of at least {_LEAST} pairs to compare")
    words, rng = Words(), random.Random(f"{seed}/agreement")
    rows, values, labels, sources = [], [], [], []
    for source, group in groups.items():
        for item in rng.sample(list(group), min(len(group), _MOST)):
            # A coin decides which side is counted positive, so that there is a label to learn.
            sign = rng.choice((1, -1))
            features, differences = _differences(item, words)
            rows.append(features)
            values.append(sign * differences)
            labels.append(sign > 0)
            sources.append(source)
    matrix = sparse(rows, (1 << _BITS) + _STYLE, values)
    truth, origin = np.array(labels, np.float64), np.array(sources)
    accuracy, swapped = {}, []
    for source in groups:
        train, test = np.flatnonzero(origin != source), np.flatnonzero(origin == source)
        small = matrix[:, telling(matrix[train], truth[train], _FEATURES)]
        weights, _ = fit(small[train], truth[train], penalty=3.0)
        scores = small[test] @ weights
        right = float((((scores > 0) == (truth[test] > 0.5)) * (scores != 0) + 0.5 * (scores == 0)).mean())
        accuracy[source] = right
        if 0.5 - right > max(0.05, 1.5 / math.sqrt(len(test))):
            swapped.append(source)
    listed = ", ".join(f"{source} {100 * right:.1f}%" for source, right in accuracy.items())
    summary = f"labels guessed from the other sources: {listed}"
    if swapped:
        summary += f"; against the others: {', '.join(swapped)}: swapped labels, or another taste"
    return Finding(name, not swapped, summary, {"by_source": accuracy, "against": swapped})


def _differences(item: Figures, words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Features and values ``[k]``: of each word in one response only, +1 or -1, and three of style."""
    shift = np.uint64(64 - _BITS)
    chosen, rejected = (np.unique(words.of(text) >> shift) for text in (item.pair.chosen, item.pair.rejected))
    only_chosen = np.setdiff1d(chosen, rejected, assume_unique=True)
    only_rejected = np.setdiff1d(rejected, chosen, assume_unique=True)
    lengths = item.words[0] + 1, item.words[1] + 1
    marks = item.markdown[0] - item.markdown[1]
    style = [np.sign(lengths[0] - lengths[1]), math.log(lengths[0] / lengths[1]), np.sign(marks)]
    features = np.concatenate(
        [only_chosen.astype(np.int64), only_rejected.astype(np.int64), (1 << _BITS) + np.arange(_STYLE)]
    )
    return features, np.concatenate([np.ones(len(only_chosen)), -np.ones(len(only_rejected)), style])
