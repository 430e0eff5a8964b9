"""The built-in family in the other modes: further responses for lists, and what the imperfect teacher writes.

It rates and orders by the rubric that it would compare the pair by, so that both ratings of a pair, and its list, come
from one rubric and always put the better response above.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from actors.messages import JudgeMode, Order
from actors.verifier.trace import LETTERS, LOWEST
from pipelines.data.modes import listed
from pipelines.data.schema import PreferencePair
from pipelines.data.tiny_tasks import (
    NUMBERS,
    WEIGHTS,
    draw_response,
    kind_of,
    satisfies,
    score,
    swaps,
    teacher_order,
)

LIST = 3
"""Responses of a list of the family."""


def with_others(pair: PreferencePair) -> PreferencePair:
    """The pair with further responses for a list among its metadata, all worse than the chosen one."""
    rng = random.Random(f"{pair.id}/{pair.prompt[0].content}/{pair.chosen}/others")
    others: list[str] = []
    while len(others) < LIST - 2:
        if pair.domain == "Reasoning":
            drawn = rng.choice(NUMBERS)
            worse = drawn != pair.chosen
        else:
            true = pair.metadata["true_order"]
            drawn = draw_response(rng, pair.metadata["criteria"])
            worse = score(drawn, true) < score(pair.chosen, true)
        if worse and drawn not in (pair.rejected, *others):
            others.append(drawn)
    return replace(pair, metadata={**pair.metadata, "others": others})


def mode_chain(pair: PreferencePair, mode: JudgeMode, order: Order, seed: str) -> str:
    """What the teacher writes of one response (``chosen_second``: of the worse one) or of a list in that order.

    A rating is 1 and the weights of the criteria that are met, so 1 to 8; a solved task is worth 8, any other 1. Of
    responses that the rubric holds equal, the one shown first comes first.
    """
    if mode == "pointwise":
        shown = [pair.chosen if order == "chosen_first" else pair.rejected]
    else:
        shown = listed(pair, order)[0]
    if pair.domain == "Reasoning":
        answer = pair.metadata["answer"]
        value = [sum(WEIGHTS) * (response == answer) for response in shown]
        checks = f"match {answer} {_who([response == answer for response in shown])}"
        before = f"<type>Reasoning</type><solution>so {pair.metadata['work']} : {answer}</solution>"
    else:
        listed_as = pair.metadata["criteria"]
        rivals = [pair.rejected] if mode == "pointwise" else [text for text in shown if text != pair.chosen]
        ordered = (
            teacher_order(listed_as, pair.chosen, pair.rejected, seed)
            if len(rivals) == 1
            else _order(listed_as, pair.chosen, rivals, seed)
        )
        value = [score(response, ordered) for response in shown]
        rubric = " , ".join(f"{each} {NUMBERS[weight]}" for each, weight in zip(ordered, WEIGHTS, strict=False))
        found = (f"{each} {_who([satisfies(response, each) for response in shown])}" for each in ordered)
        checks = f"check {' , '.join(found)}"
        before = (
            f"<type>Chat</type><rubric>list {rubric}"
            f"<justify>so {pair.metadata['topic']} first {kind_of(ordered[0])}</justify></rubric>"
        )
    if mode == "pointwise":
        said = str(LOWEST + value[0])
    else:
        best = sorted(range(len(shown)), key=lambda place: (-value[place], place))
        said = " > ".join(LETTERS[place] for place in best)
    return f"{before}<eval>{checks}</eval><answer>[[{said}]]</answer>"


def _who(meets: Sequence[bool]) -> str:
    return " ".join(letter for letter, met in zip(LETTERS, meets, strict=False) if met) or "none"


def _order(criteria: Sequence[str], chosen: str, rivals: Sequence[str], seed: str) -> Sequence[str]:
    """As :func:`teacher_order`, with the chosen response above all rivals."""
    right = [
        order for order in permutations(criteria) if score(chosen, order) > max(score(rival, order) for rival in rivals)
    ]
    fewest = min(swaps(order, criteria) for order in right)
    return random.Random(seed).choice([order for order in right if swaps(order, criteria) == fewest])
