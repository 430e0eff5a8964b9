"""Judges with a known character, and comparisons for them to judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from actors.messages import Order, Side
from pipelines.benchmarks.benchmark import Benchmark, Comparison
from pipelines.data.prompts import orders_of
from pipelines.data.schema import Message, PreferencePair
from pipelines.evaluation.judging import Judgment, read

FACTS = {"model": "judge", "weights": "0", "engine": {"verdict_mode": "paper"}}

Judge = Callable[[Judgment], str]
"""What a judge writes about a pair in one order, for one vote."""


def answer(side: Side) -> str:
    """A whole answer."""
    return f"<answer>[[{side}]]</answer>"


def other(side: Side) -> Side:
    """The side it is not."""
    return "B" if side == "A" else "A"


def always_a(judgment: Judgment) -> str:
    """Nothing but the position counts."""
    return answer("A")


def perfect(judgment: Judgment) -> str:
    """Right every time."""
    return answer(judgment.label)


def longer(judgment: Judgment) -> str:
    """The longer response wins."""
    pair = judgment.comparison.pair
    chosen = len(pair.chosen) > len(pair.rejected)
    return answer(judgment.label if chosen else other(judgment.label))


def fair_coin(seed: int) -> Judge:
    """Either side, at random."""
    rng = random.Random(seed)
    return lambda judgment: answer(rng.choice(("A", "B")))


def silent(judgment: Judgment) -> str:
    """No verdict."""
    return "both have their merits"


def comparison(number: int, **fields: Any) -> Comparison:
    """A pair whose better response is the shorter one where the number is odd."""
    texts = ("short", "a longer one") if number % 2 else ("a longer one", "short")
    subset = fields.pop("subset", "all")
    pair = PreferencePair(f"{subset}/{number}", "test", subset, (Message("user", f"question {number}"),), *texts)
    return Comparison(pair, subset, fields.pop("item", str(number)), **fields)


def judged(
    benchmark: Benchmark, comparisons: Sequence[Comparison], judge: Judge, *, orders: str = "both", votes: int = 1
) -> list[dict[str, Any]]:
    """Rows of the log, as the pipeline writes them, of a judge on comparisons."""
    by_id = {item.pair.id: item for item in comparisons}
    rows = []
    for pair, order in orders_of((item.pair for item in comparisons), orders, 0):
        for vote in range(votes):
            judgment = Judgment(benchmark, benchmark.name, by_id[pair.id], order, vote, (1, 2, 3), "hash")
            rows.append(row(judgment, judge(judgment)))
    return rows


def row(judgment: Judgment, text: str, logprob: float | None = None) -> dict[str, Any]:
    """One row of the log."""
    return judgment.row(
        FACTS, **read(judgment, text, "paper"), tokens=10, finish_reason="stop", verdict_logprob=logprob
    )


ORDERS: tuple[Order, Order] = ("chosen_first", "chosen_second")
