"""Label leaks: can the label be told from the prompt without reading the responses?

Both responses are masked, then a small linear classifier learns the label from the words, pairs of words and
repetitions that are left. On prompts it has not seen its accuracy must be at chance; so must every single mark be
equally frequent beside both labels. The released RM-R1 code wrote "Chabot B" in multi-turn prompts in which B was the
worse side: the second test finds that even where such prompts are few.

Prompts that came ready made hide their responses in one text. There the lines (or openings of lines) that many prompts
share are taken for template; of everything else only single words are used. Both responses stand in the text alike, so
words without their place say nothing about the label, unless the prompt leaks.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from pipelines.data.lint.findings import Finding, Shown
from pipelines.data.lint.linear import fit, sparse, telling
from pipelines.data.lint.words import Words, mixed, runs
from pipelines.data.prompts import PromptTemplate, render
from pipelines.data.schema import prompt_key

MASK = "‹response›"
_BITS = 21
_REPEATS = 6
_FEATURES = 2000
_AT_LEAST = 100


@dataclass(frozen=True, slots=True)
class MaskedPrompt:
    """A prompt without its responses, and what is to be guessed."""

    text: str
    """Of which every mark, pair of marks and repetition is used."""
    more: str
    """Of which single words are used."""
    first: bool
    group: str
    """Prompts of one group are on one side of the classifier's split."""
    name: str


def masked_prompts(shown: Sequence[Shown], template: PromptTemplate) -> list[MaskedPrompt]:
    """The prompts of pairs with both responses masked."""
    ready_made = [_joined(item.pair.metadata["context_messages"]) for item in shown if item.pair.ready_made]
    scaffolds = iter(_scaffolds(ready_made))
    whole = iter(ready_made)
    result = []
    for item in shown:
        key = prompt_key(item.pair)
        if item.pair.ready_made:
            text, more = next(scaffolds), next(whole)
        else:
            masked = replace(item.pair, chosen=MASK, rejected=MASK)
            text, more = _joined(render(masked, item.order, template)), ""
        result.append(MaskedPrompt(text, more, item.first, key, f"{item.split} {item.pair.id}"))
    return result


def _joined(messages: Sequence[dict[str, str]]) -> str:
    return "\n".join(f"{message['role']}\n{message['content']}" for message in messages)


def _scaffolds(texts: Sequence[str]) -> list[str]:
    """Each text with every line masked but those, or their openings up to a colon, that at least 1% of texts share."""
    frequent = Counter(part for text in texts for part in {part for line in text.split("\n") for part in _parts(line)})
    enough = max(3, len(texts) // 100)

    def shared(line: str) -> str:
        return next((part for part in _parts(line) if frequent[part] >= enough), "") or MASK

    return ["\n".join(shared(line) for line in text.split("\n")) for text in texts]


def _parts(line: str) -> list[str]:
    line = line.strip()
    opening = line[: line.find(":") + 1]
    return [line, opening] if 0 < len(opening) <= 40 else [line]


def label_leak(prompts: Sequence[MaskedPrompt], margin: float, seed: int, most: int = 20_000) -> Finding:
    """Train on 70% of the prompts, guess the labels of the others. At most ``most`` prompts are used, drawn by seed."""
    name = "label_leak"
    if len(prompts) < _AT_LEAST or len({prompt.first for prompt in prompts}) < 2:
        return Finding(name, None, f"{len(prompts)} prompts; at least {_AT_LEAST} with both labels are needed to tell")
    if len(prompts) > most:
        prompts = random.Random(f"{seed}/leak").sample(list(prompts), most)
    words = Words()
    labels = np.array([prompt.first for prompt in prompts], np.float64)
    everything = sparse([_features(prompt, words) for prompt in prompts], 1 << _BITS)
    present = np.unique(everything.indices)
    matrix = everything[:, present]
    held_out = np.array([_held_out(prompt.group, seed) for prompt in prompts])
    if not 0 < held_out.sum() < len(held_out):
        return Finding(name, None, "all prompts ask the same: nothing can be held out")
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    small = matrix[:, telling(matrix[train], labels[train], _FEATURES)]
    weights, bias = fit(small[train], labels[train])
    guesses = small[test] @ weights + bias > 0
    accuracy = float((guesses == (labels[test] > 0.5)).mean())
    # Where positions are unbalanced (another check), always guessing the commoner one is chance.
    chance = float(max(labels[test].mean(), 1 - labels[test].mean()))
    bound = max(margin, 4 * math.sqrt(0.25 / len(test)))
    marks = _leaking_marks(matrix, present, labels, prompts, words)
    ok = accuracy <= chance + bound and not marks
    summary = f"held-out accuracy {accuracy:.3f}, chance {chance:.3f} (allowed {chance + bound:.3f})"
    if marks:
        summary += "; marks that go with one label: " + ", ".join(marks[:3])
    numbers = {
        "accuracy": accuracy,
        "chance": chance,
        "allowed": chance + bound,
        "prompts": len(prompts),
        "held_out": len(test),
        "leaking_marks": len(marks),
    }
    return Finding(name, ok, summary, numbers, tuple(marks))


def _held_out(group: str, seed: int) -> bool:
    return hashlib.sha256(f"{seed}/leak/{group}".encode()).digest()[0] < 77


def _features(prompt: MaskedPrompt, words: Words) -> np.ndarray:
    """Distinct feature numbers below ``1 << _BITS``."""
    _, marks = words.marks(prompt.text)
    single, counts = np.unique(marks, return_counts=True)
    repeated = counts > 1
    parts = [single, runs(marks, 2), _repeats(single[repeated], counts[repeated])]
    if prompt.more:
        parts.append(words.marks(prompt.more)[1])
    return np.unique(np.concatenate(parts) >> np.uint64(64 - _BITS))


def _leaking_marks(
    matrix: csr_array, present: np.ndarray, labels: np.ndarray, prompts: Sequence[MaskedPrompt], words: Words
) -> list[str]:
    """Marks whose rows have labels that chance does not explain, worst first; ``present`` holds the features' numbers.

    The chance of ``k`` of ``n`` rows is bounded by Chernoff's ``2 exp(-n KL(k/n, p))``, over all features below
    one in a thousand.
    """
    counts = matrix.sum(axis=0)
    share = np.clip(matrix.T @ labels / counts, 1e-12, 1 - 1e-12)
    base = float(np.clip(labels.mean(), 1e-6, 1 - 1e-6))
    surprise = counts * (share * np.log(share / base) + (1 - share) * np.log((1 - share) / (1 - base)))
    bound = math.log(2 * len(present) / 1e-3)
    found = [int(index) for index in np.argsort(-surprise)[:20] if surprise[index] > bound]
    rows = {feature: int(matrix[:, [feature]].nonzero()[0][0]) for feature in found}
    return [
        f"{_spelled(int(present[feature]), prompts[rows[feature]], words)} ({counts[feature]:.0f} prompts, "
        f"first is better in {100 * share[feature]:.0f}%)"
        for feature in found
    ]


def _spelled(feature: int, prompt: MaskedPrompt, words: Words) -> str:
    """The mark behind a feature, from a prompt that has it."""
    shift = np.uint64(64 - _BITS)
    for text in (prompt.text, prompt.more):
        marks, numbers = words.marks(text)
        single, first, counts = np.unique(numbers, return_index=True, return_counts=True)
        candidates = [
            (numbers, [repr(mark) for mark in marks]),
            (runs(numbers, 2), [repr(f"{one} {two}") for one, two in pairwise(marks)]),
            (
                _repeats(single, counts),
                [f"{marks[at]!r} {count} times" for at, count in zip(first, counts, strict=True)],
            ),
        ]
        for hashed, spelled in candidates:
            hits = np.flatnonzero(hashed >> shift == feature)
            if len(hits):
                return spelled[int(hits[0])]
    raise AssertionError("a feature comes from one of its prompt's marks")


def _repeats(marks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One number for each mark and how often it occurs; six times or more are the same."""
    return mixed(marks + np.minimum(counts, _REPEATS).astype(np.uint64))
