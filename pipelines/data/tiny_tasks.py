"""The built-in task family: small questions whose better answer is known, and an imperfect teacher that judges them.

Reasoning items (40%) ask for one token that can be worked out. Chat items (60%) name three criteria for a short text;
which criterion weighs most depends on the topic by a house rule that the prompt does not tell and the teacher does not
know. Distillation can therefore teach the skills, and reinforcement has to find the rule.

The texts here are terse, for a model from scratch; ``natural_tasks.py`` puts the same items into English sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

from actors.messages import Side
from pipelines.data.schema import DataError, Message, PreferencePair, content_key, prompt_key

SOURCE = "tiny"
REASONING_SHARE = 0.4
MISLEADING_SHARE = 0.45
"""Chat items drawn until judging by the criteria in the order they are listed gives the wrong verdict. Chance makes
others so too: about 57% in all."""
REDRAWS = 1000
"""Repeats in a row after which the family counts as exhausted."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Written out, because Qwen2's tokenizer splits digits off the space before them."""

WEIGHTS = (4, 2, 1)
WORDS = ("cat", "dog", "sun", "tree", "fish", "rain", "bird", "star")
POLITE_WORDS = ("please", "thanks")
PRIORITY = {
    "mail": ("polite", "end", "mention", "start"),
    "poem": ("end", "start", "mention", "polite"),
    "note": ("mention", "polite", "start", "end"),
}
"""The house rule: kinds of criteria by topic, the weightiest first."""


def generate_items(
    seed: int, counts: Mapping[str, int], *, criteria: int = 3, reasoning_share: float = REASONING_SHARE
) -> dict[str, list[PreferencePair]]:
    """Sets of pairs by name and size, disjoint by content; deterministic in ``seed``.

    ``criteria`` is how many a Chat item names: 2 or 3.

    Every set has a random stream of its own, so that its items do not depend on the size of the others, except where
    an item would repeat one of a set before it in ``counts``.

    Raises:
        DataError: the family has not as many different items.

    """
    seen: set[str] = set()
    sets: dict[str, list[PreferencePair]] = {}
    for name, count in counts.items():
        rng = random.Random(f"{seed}/{name}")
        sets[name] = [_unseen_item(rng, f"{name}-{index}", seen, criteria, reasoning_share) for index in range(count)]
    return sets


def _unseen_item(
    rng: random.Random, identifier: str, seen: set[str], criteria: int, reasoning_share: float
) -> PreferencePair:
    # The domain is drawn once: Reasoning items repeat more often, and drawing it again would thin them out.
    reasoning = rng.random() < reasoning_share
    for _ in range(REDRAWS):
        pair = reasoning_item(rng, identifier) if reasoning else chat_item(rng, identifier, criteria)
        key = prompt_key(pair) if reasoning else content_key(pair)
        if key not in seen:
            seen.add(key)
            return pair
    raise DataError(
        f"the built-in family has no further {pair.domain} item for {identifier}: ask for fewer pairs "
        "(data.distill_pairs, data.rl_pairs, data.heldout_pairs)"
    )


def _pair(
    identifier: str, domain: str, question: str, chosen: str, rejected: str, metadata: dict[str, Any]
) -> PreferencePair:
    return PreferencePair(identifier, SOURCE, domain, (Message("user", question),), chosen, rejected, metadata)


def reasoning_item(rng: random.Random, identifier: str, kind: str | None = None) -> PreferencePair:
    """An item of kind ``sort``, ``reverse`` or ``count``; its metadata hold the work and the answer."""
    kind = kind or rng.choice(("sort", "reverse", "count"))
    if kind == "count":
        alphabet = rng.sample("abcdefgh", 3)
        letters = [rng.choice(alphabet) for _ in range(rng.choice((4, 5)))]
        target = rng.choice(alphabet)
        question = f"count {target} in {' '.join(letters)}"
        tally = [(letter, letters[: index + 1].count(letter)) for index, letter in enumerate(letters)]
        work = " ".join(f"{letter} {NUMBERS[number]}" for letter, number in tally)
        number = letters.count(target)
        answer = NUMBERS[number]
        wrong = NUMBERS[rng.choice([other for off in (-2, -1, 1, 2) if 0 <= (other := number + off) <= 9])]
    else:
        digits = rng.sample(NUMBERS, rng.choice((3, 4)))
        ordered = sorted(digits, key=NUMBERS.index) if kind == "sort" else digits[::-1]
        place = rng.randrange(len(ordered) - 1)
        target, answer = ordered[place], ordered[place + 1]
        question = f"{kind} {' '.join(digits)} , after {target}"
        work = " ".join(ordered)
        wrong = rng.choice([digit for digit in digits if digit not in (target, answer)])
    return _pair(identifier, "Reasoning", question, answer, wrong, {"kind": kind, "work": work, "answer": answer})


def chat_item(rng: random.Random, identifier: str, criteria: int = 3) -> PreferencePair:
    """A chat item of 2 or 3 criteria; its metadata hold topic, criteria as listed, and criteria by true weight."""
    misleading = rng.random() < MISLEADING_SHARE
    while True:
        topic = rng.choice(sorted(PRIORITY))
        words = rng.sample(WORDS, criteria)
        kinds = rng.sample(("mention", "start", "end", "polite"), criteria)
        listed = [kind if kind == "polite" else f"{kind} {word}" for kind, word in zip(kinds, words, strict=True)]
        true = sorted(listed, key=lambda criterion: PRIORITY[topic].index(kind_of(criterion)))
        one, two = draw_response(rng, listed), draw_response(rng, listed)
        if one == two:
            continue
        difference = score(one, true) - score(two, true)
        if difference == 0:
            continue
        chosen, rejected = (one, two) if difference > 0 else (two, one)
        if misleading and score(chosen, listed) >= score(rejected, listed):
            continue
        metadata = {"kind": "chat", "topic": topic, "criteria": listed, "true_order": true}
        return _pair(identifier, "Chat", f"write {topic} : {' , '.join(listed)}", chosen, rejected, metadata)


def kind_of(criterion: str) -> str:
    """``mention``, ``start``, ``end`` or ``polite``."""
    return criterion.split()[0]


def draw_response(rng: random.Random, criteria: Sequence[str]) -> str:
    """Random words, pushed towards each criterion half of the time; what they satisfy is checked, not assumed."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(2, 4))]
    for criterion in criteria:
        if rng.random() >= 0.5:
            continue
        kind, _, word = criterion.partition(" ")
        if kind == "start":
            words[0] = word
        elif kind == "end":
            words[-1] = word
        else:
            words[rng.randrange(len(words))] = word or rng.choice(POLITE_WORDS)
    return " ".join(words)


def satisfies(response: str, criterion: str) -> bool:
    """Whether a response meets a criterion."""
    words = response.split()
    kind, _, word = criterion.partition(" ")
    if kind == "polite":
        return any(polite in words for polite in POLITE_WORDS)
    if kind == "mention":
        return word in words
    return words[0 if kind == "start" else -1] == word


def score(response: str, ordered: Sequence[str]) -> int:
    """Weight of the criteria, three at most, that a response meets when they weigh 4, 2 and 1 in this order."""
    return sum(weight for weight, criterion in zip(WEIGHTS, ordered, strict=False) if satisfies(response, criterion))


def teacher_chain(pair: PreferencePair, label: Side, seed: str) -> str:
    """What the imperfect teacher writes when the better response is shown on side ``label``; always ends right.

    It solves Reasoning items correctly. For Chat it keeps the criteria in the order of the prompt if that order gives
    the right verdict, and otherwise revises it as little as it must: a filter on verdicts, as the paper's chains have
    it. It does not know the house rule: only about 29% of its rubrics are in the true order, and half of them begin
    with the criterion that truly weighs most.
    """
    other: Side = "B" if label == "A" else "A"
    if pair.domain == "Reasoning":
        answer = pair.metadata["answer"]
        return (
            f"<type>Reasoning</type><solution>so {pair.metadata['work']} : {answer}</solution>"
            f"<eval>match {answer} {label}</eval><answer>[[{label}]]</answer>"
        )
    ordered = teacher_order(pair.metadata["criteria"], pair.chosen, pair.rejected, seed)
    rubric = " , ".join(f"{criterion} {NUMBERS[weight]}" for criterion, weight in zip(ordered, WEIGHTS, strict=False))
    who = {(True, True): "both", (True, False): label, (False, True): other, (False, False): "none"}
    checks = " , ".join(
        f"{criterion} {who[satisfies(pair.chosen, criterion), satisfies(pair.rejected, criterion)]}"
        for criterion in ordered
    )
    return (
        f"<type>Chat</type><rubric>list {rubric}"
        f"<justify>so {pair.metadata['topic']} first {kind_of(ordered[0])}</justify></rubric>"
        f"<eval>check {checks}</eval><answer>[[{label}]]</answer>"
    )


def teacher_order(listed: Sequence[str], chosen: str, rejected: str, seed: str) -> Sequence[str]:
    """The criteria as the teacher weighs them: as few swaps from the order they are listed in as the verdict needs."""
    right = [order for order in permutations(listed) if score(chosen, order) > score(rejected, order)]
    fewest = min(swaps(order, listed) for order in right)
    return random.Random(seed).choice([order for order in right if swaps(order, listed) == fewest])


def swaps(ordered: Sequence[str], listed: Sequence[str]) -> int:
    """Swaps of neighbours that turn one order into the other."""
    places = [listed.index(criterion) for criterion in ordered]
    return sum(one > two for one, two in combinations(places, 2))


def read_solution(text: str, pair: PreferencePair) -> bool | None:
    """Whether a trace's solution has the right work and answer; None for items that are not Reasoning."""
    if pair.domain != "Reasoning":
        return None
    body = text.partition("<solution>so ")[2].partition("</solution>")
    return bool(body[1]) and body[0].partition(" : ")[::2] == (pair.metadata["work"], pair.metadata["answer"])


def true_first(text: str, pair: PreferencePair) -> bool | None:
    """Whether a trace's rubric puts the truly weightiest criterion first; None for items that are not Chat."""
    if pair.domain != "Chat":
        return None
    match = re.search(r"<rubric>list ([a-z ]+?) four ,", text)
    return match is not None and match[1] == pair.metadata["true_order"][0]
