"""Duplicates: exact, contradicting, near; within and across splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pairs import many_pairs, swapped

from pipelines.data.lint.duplicates import Splits, exact, near, near_pairs
from pipelines.data.lint.findings import Finding
from pipelines.data.lint.words import Words, runs


def named(splits: Splits) -> dict[str, Finding]:
    return {finding.check: finding for finding in (*exact(splits), *near(splits, 0.8))}


def test_clean_splits_pass_every_check() -> None:
    findings = named({"train": many_pairs(300), "heldout": many_pairs(50, source="other")})
    assert {name: finding.ok for name, finding in findings.items()} == dict.fromkeys(findings, True)


def test_one_percent_across_splits_is_caught() -> None:
    train, heldout = many_pairs(400), many_pairs(100, source="other")
    leaked = [replace(pair, id=f"copy-{pair.id}") for pair in heldout[:4]]
    findings = named({"train": [*train, *leaked], "heldout": heldout})
    assert findings["duplicates_across_splits"].ok is False
    assert findings["duplicates_across_splits"].numbers == {"prompts": 4, "pairs_train": 4, "pairs_heldout": 4}
    assert findings["duplicates"].ok


def test_the_same_question_with_other_answers_is_across_splits_too() -> None:
    train, heldout = many_pairs(20), many_pairs(20, source="other")
    heldout[3] = replace(heldout[3], prompt=train[5].prompt)
    assert named({"train": train, "heldout": heldout})["duplicates_across_splits"].numbers["prompts"] == 1


def test_repeats_and_contradictions_are_told_apart() -> None:
    pairs = many_pairs(30)
    again, opposed = replace(pairs[0], id="again"), replace(swapped(pairs[1]), id="opposed")
    findings = named({"train": [*pairs, again, opposed]})
    assert findings["duplicates"].numbers == {"pairs": 1}
    assert findings["contradictions"].numbers == {"pairs": 1}
    assert findings["contradictions"].examples == (f"train: opposed and {pairs[1].id}",)
    assert findings["duplicates_across_splits"].ok is None


def test_case_and_white_space_do_not_hide_a_duplicate() -> None:
    (pair,) = many_pairs(1)
    shouted = replace(pair, id="x", chosen=f"  {pair.chosen.upper()}\n", rejected=pair.rejected.replace(" ", "  "))
    assert named({"train": [pair, shouted]})["duplicates"].numbers == {"pairs": 1}


def test_near_duplicates_have_the_jaccard_similarity_of_their_five_grams() -> None:
    pairs = many_pairs(200)
    edited = replace(pairs[7], id="edited", chosen=pairs[7].chosen + " Indeed")
    (found,) = near_pairs([*pairs, edited], 0.8)
    assert (found.earlier, found.later) == (7, 200)
    words = Words()
    grams = [
        set(np.concatenate([runs(words.of(text), 5) for text in (pair.prompt[0].content, pair.chosen, pair.rejected)]))
        for pair in (pairs[7], edited)
    ]
    assert found.similarity == pytest.approx(len(grams[0] & grams[1]) / len(grams[0] | grams[1]))
    assert near_pairs([*pairs, edited], 0.999) == []


def test_near_duplicates_across_splits() -> None:
    train = many_pairs(50)
    edited = replace(train[7], id="edited", chosen=train[7].chosen + " Indeed")
    findings = named({"train": train, "heldout": [*many_pairs(20, source="other"), edited]})
    assert findings["near_duplicates_across_splits"].numbers == {"pairs": 1}
    assert findings["near_duplicates"].numbers == {"pairs": 0}


def test_a_large_cluster_is_found_whole() -> None:
    (pair,) = many_pairs(1)
    cluster = [replace(pair, id=str(index), chosen=f"{pair.chosen} {index}") for index in range(60)]
    assert {item.later for item in near_pairs(cluster, 0.7)} == set(range(1, 60))


def test_runs_of_short_texts() -> None:
    words = Words()
    assert len(runs(words.of("one two three"), 5)) == 1
    assert len(runs(words.of(""), 5)) == 0
    assert runs(words.of("One, two!"), 5) == runs(words.of("one two"), 5)
    assert len(set(runs(words.of("a b c d e f g"), 5).tolist())) == 3
