"""The built-in family in plain English, for a pretrained language model: the items of ``tiny_tasks.py`` as sentences.

An item, its better response, the house rule and the imperfect teacher are the terse ones; only the words differ. What
is checked of a response is checked of the terse form, which the pair's metadata keep.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from actors.messages import Side
from pipelines.data.schema import Message, PreferencePair
from pipelines.data.tiny_tasks import POLITE_WORDS, satisfies, teacher_order

WORDING = "natural"
_JOINTS = ("and the", "near the", "with the")


def in_sentences(pair: PreferencePair) -> PreferencePair:
    """A terse item as sentences; its metadata keep the terse responses under ``terse``: the chosen, the rejected."""
    say = _statement if pair.domain == "Reasoning" else _sentence
    return replace(
        pair,
        prompt=(Message("user", _request(pair)),),
        chosen=say(pair.chosen),
        rejected=say(pair.rejected),
        metadata={**pair.metadata, "wording": WORDING, "terse": [pair.chosen, pair.rejected]},
    )


def _request(pair: PreferencePair) -> str:
    metadata, terse = pair.metadata, pair.prompt[0].content
    if metadata["kind"] == "chat":
        return f"Write a {metadata['topic']}. It should {_listed([_told(each) for each in metadata['criteria']])}."
    if metadata["kind"] == "count":
        _, target, _, *letters = terse.split()
        return f"How many times does the letter {target} occur in {' '.join(letters)}?"
    numbers, _, target = terse.partition(" ")[2].partition(" , after ")
    do = "Sort these numbers" if metadata["kind"] == "sort" else "Reverse these numbers"
    return f"{do}: {', '.join(numbers.split())}. Which number comes right after {target} then?"


def _told(criterion: str) -> str:
    """A criterion as what an answer should do."""
    kind, _, word = criterion.partition(" ")
    return {
        "polite": "be polite",
        "mention": f"mention the {word}",
        "start": f"start with the word {word}",
        "end": f"end with the word {word}",
    }[kind]


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + f" and {parts[-1]}"


def _statement(answer: str) -> str:
    return f"The answer is {answer}."


def _sentence(response: str) -> str:
    """The words of a terse response in their order, the first and the last of them where they were."""
    words = response.split()
    text = words[0]
    for index, (before, word) in enumerate(pairwise(words)):
        apart = before in POLITE_WORDS or word in POLITE_WORDS
        text += f", {word}" if apart else f" {_JOINTS[index]} {word}"
    return f"{text.capitalize()}."


def natural_chain(pair: PreferencePair, label: Side, seed: str) -> str:
    """What the imperfect teacher of ``tiny_tasks.teacher_chain`` finds in the same item, and what it found it in.

    It reads each answer until it has seen what it looks for, and only then says yes or no: so each token that decides
    follows from words just before it, which is what a small model can learn.
    """
    metadata = pair.metadata
    chosen, rejected = metadata["terse"]
    responses = (chosen, rejected) if label == "A" else (rejected, chosen)
    if pair.domain == "Reasoning":
        answer = metadata["answer"]
        check = _check(f"The answer is {answer}", [(f"says {each}", each == answer) for each in responses])
        return (
            f"<type>Reasoning</type><solution>{_solution(pair)}</solution>"
            f"<eval>{check}</eval><answer>[[{label}]]</answer>"
        )
    ordered = teacher_order(metadata["criteria"], chosen, rejected, seed)
    checks = " ".join(
        _check(
            _told(each).capitalize(), [(_evidence(each, response), satisfies(response, each)) for response in responses]
        )
        for each in ordered
    )
    return (
        f"<type>Chat</type><rubric>First {', then '.join(map(_told, ordered))}."
        f"<justify>It is a {metadata['topic']}.</justify></rubric><eval>{checks}</eval><answer>[[{label}]]</answer>"
    )


def _check(what: str, found: Sequence[tuple[str, bool]]) -> str:
    """A sentence for what is asked of both answers, one for who meets it; ``found`` is of A, then of B."""
    (seen_a, met_a), (seen_b, met_b) = found
    who = {(True, True): "Both", (True, False): "Only A", (False, True): "Only B", (False, False): "Neither"}
    word = {True: "yes", False: "no"}
    return f"{what}: A {seen_a}, {word[met_a]}; B {seen_b}, {word[met_b]}. {who[met_a, met_b]}."


def _evidence(criterion: str, response: str) -> str:
    """The words of a terse response that one reads until one knows whether it meets a criterion."""
    words, (kind, _, wanted) = response.split(), criterion.partition(" ")
    if kind in ("start", "end"):
        return f"{kind}s with {words[0 if kind == 'start' else -1]}"
    sought = (wanted,) if wanted else POLITE_WORDS
    until = next((index for index, word in enumerate(words) if word in sought), len(words))
    return f"has {', '.join(words[: until + 1])}"


def _solution(pair: PreferencePair) -> str:
    """The one right text of a solution: the work, then the answer."""
    work, answer = pair.metadata["work"].split(), pair.metadata["answer"]
    if pair.metadata["kind"] == "count":
        tally = ", ".join(f"{letter} {number}" for letter, number in zip(work[::2], work[1::2], strict=True))
        return f"Going through it letter by letter: {tally}. So it occurs {answer} times."
    before = work[work.index(answer) - 1]
    do = "Sorted" if pair.metadata["kind"] == "sort" else "Reversed"
    return f"{do}, the numbers are {', '.join(work)}. Right after {before} comes {answer}. So the answer is {answer}."


def read_natural_solution(text: str, pair: PreferencePair) -> bool | None:
    """Whether a trace's solution has the right work and answer; None for items that are not Reasoning."""
    if pair.domain != "Reasoning":
        return None
    body = text.partition("<solution>")[2].partition("</solution>")
    return bool(body[1]) and body[0] == _solution(pair)


def natural_true_first(text: str, pair: PreferencePair) -> bool | None:
    """Whether a trace's rubric puts the truly weightiest criterion first; None for items that are not Chat."""
    if pair.domain != "Chat":
        return None
    match = re.search(r"<rubric>First ([a-z ]+?), then ", text)
    return match is not None and match[1] == _told(pair.metadata["true_order"][0])
