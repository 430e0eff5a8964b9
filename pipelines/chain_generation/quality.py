"""How well a trace is reasoned, beyond its verdict: pure measures of one judgment against the texts it judges.

Every measure is None where the trace has nothing to measure it on: no quotes, no stated weights, no totals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from actors.messages import JudgeMode, Side
from actors.verifier.trace import Judgment, parse, read_verdict
from pipelines.evaluation.quotes import quotes

QUOTE_FOUND = 0.75
"""Share of a quote's word pairs that its response must have for the quote to count as found."""
_SHORT_QUOTE = 4
"""Words below which a quote must occur as it is: too few pairs to tell near from far."""
_WEIGHTS_TOLERANCE = 1.0
"""Percentage points by which weights may miss 100, for three thirds of 33%."""
_CRITERION_MENTIONED = 0.5
"""Share of a criterion's content words that the evaluation must have for it to count as mentioned."""

# Each begins where no character before it could begin it too, and gives nothing back: time is linear in the text.
_PERCENT = re.compile(r"(?<!\d)(\d{1,30}+(?:\.\d{1,30}+)?+)\s*+%")
_ITEM = re.compile(r"(?<!\s)\s*+(?:[-*•]|\(?\d{1,2}[.)]|\(?[a-z][.)])\s+", re.IGNORECASE)
_NAME_END = re.compile(r"[:(\[–—]|\s-\s|\d")
_NUMBER = r"(\d{1,30}(?:\.\d{1,30})?)"
_TOTAL = re.compile(
    r"\b(?:(?<!in )totals?|weighted (?:sum|average|mean|score)"
    r"|(?:overall|final|aggregate|combined) (?:score|rating|mark)s?)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\*\*|[`#]+")
_FILLER = {"the", "and", "for", "with", "its", "this", "that", "are", "was", "how", "does", "list", "weight"}


@dataclass(frozen=True, slots=True)
class TraceQuality:
    """Measures of one trace. Shares are fractions of 1."""

    well_formed: bool
    problems: tuple[str, ...]
    """What keeps it from being well formed."""
    quotes: int
    """Passages in ``<quote_A>`` and ``<quote_B>``."""
    quotes_found: float | None
    """Share of them that occur in the response they quote."""
    weights_sum: float | None
    """Of the rubric's weights, in percent."""
    weights_add_up: bool | None
    criteria: int
    """Items of the rubric."""
    criteria_mentioned: float | None
    """Share of them that the evaluation speaks of."""
    tally: Side | None
    """The side with the higher total, where the evaluation states totals that differ."""
    tally_agrees: bool | None
    """Whether that is the verdict."""
    words: int
    evaluation_words: int

    @property
    def score(self) -> float:
        """Mean of the measures that apply, for choosing among several chains of one pair; 1 where none does."""
        parts = [self.quotes_found, self.criteria_mentioned, self.weights_add_up, self.tally_agrees]
        values = [float(part) for part in parts if part is not None]
        return sum(values) / len(values) if values else 1.0


def measure(
    text: str, quoted_from: Mapping[Side, str], *, judged: JudgeMode = "pairwise", responses: int = 2
) -> TraceQuality:
    """Measure a trace.

    Args:
        text: the trace.
        quoted_from: what a quote of each side may stem from: the response, or more of the prompt.
        judged: the mode it was asked in.
        responses: how many were to be judged.

    """
    judgment = parse(text, judged, responses)
    evaluation = judgment.evaluation or ""
    quoted = [(side, quote) for side in quoted_from for quote in quotes(text, side)]
    # A quote that is repeated is looked for once.
    there = {(side, quote): quote_found(quote, quoted_from[side]) for side, quote in dict.fromkeys(quoted)}
    found = [there[item] for item in quoted]
    weights = weights_sum(judgment)
    names = criteria(judgment)
    # "Total cost: A says 12, B says 15" in the check of a solution is no tally of the judge's.
    tally = None if judgment.rubric is None or judged != "pairwise" else tallied(evaluation)
    verdict = read_verdict(text, "strict").side
    return TraceQuality(
        well_formed=not judgment.problems,
        problems=judgment.problems,
        quotes=len(found),
        quotes_found=sum(found) / len(found) if found else None,
        weights_sum=weights,
        weights_add_up=None if weights is None else abs(weights - 100) <= _WEIGHTS_TOLERANCE,
        criteria=len(names),
        criteria_mentioned=_share([mentions(evaluation, name) for name in names]),
        tally=tally,
        tally_agrees=None if tally is None or verdict is None else tally == verdict,
        words=len(text.split()),
        evaluation_words=len(evaluation.split()),
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def words_of(text: str) -> list[str]:
    """Words in lower case; punctuation, markup and white space separate them."""
    return re.findall(r"\w+", text.lower())


def quote_found(quote: str, source: str) -> bool:
    """Whether a quote occurs in ``source``, up to punctuation, case and a few changed words.

    An ellipsis splits a quote into parts of which each must occur. A part of four words or more occurs when three
    quarters of its pairs of neighbouring words do, which takes linear time; a shorter one must stand there as it is.
    """
    parts = [words for part in re.split(r"\.{3,}|…|\[…\]", quote) if (words := words_of(part))]
    if not parts:
        return False
    there = words_of(source)
    joined, pairs = f" {' '.join(there)} ", set(pairwise(there))
    return all(_part_found(part, joined, pairs) for part in parts)


def _part_found(part: Sequence[str], joined: str, pairs: set[tuple[str, str]]) -> bool:
    if f" {' '.join(part)} " in joined:
        return True
    if len(part) < _SHORT_QUOTE:
        return False
    wanted = list(pairwise(part))
    return sum(pair in pairs for pair in wanted) >= QUOTE_FOUND * len(wanted)


def weights_sum(judgment: Judgment) -> float | None:
    """Sum of the rubric's percentages, its justification aside; None where it states none."""
    stated = [float(number) for number in _PERCENT.findall(_rubric(judgment))]
    return sum(stated) if stated else None


def criteria(judgment: Judgment) -> tuple[str, ...]:
    """Names of the rubric's items, in order.

    Items are the lines that begin with a bullet or a number or state a percentage; in a rubric of one line, what
    commas or semicolons separate. The name ends at a colon, a bracket, a dash or a figure.
    """
    lines = [line for line in _MARKUP.sub("", _rubric(judgment)).splitlines() if line.strip()]
    if len(lines) == 1 and not _ITEM.match(lines[0]):
        items = re.split(r"[,;]", lines[0])
    else:
        items = [line for line in lines if _ITEM.match(line) or "%" in line]
    names = [_NAME_END.split(_ITEM.sub("", item, count=1).strip())[0].strip(" .-") for item in items]
    return tuple(name for name in names if _content_words(name))


def _rubric(judgment: Judgment) -> str:
    """The rubric without its justification, which may weigh things in words of its own."""
    return (judgment.rubric or "").replace(f"<justify>{judgment.justify}</justify>", " ")


def _content_words(text: str) -> list[str]:
    return [word for word in words_of(text) if len(word) > 2 and word not in _FILLER]


def mentions(evaluation: str, criterion: str) -> bool:
    """Whether an evaluation speaks of a criterion: half of its content words, or their beginnings, stand there."""
    wanted = _content_words(criterion)
    there = {_stem(word) for word in words_of(evaluation)}
    return sum(_stem(word) in there for word in wanted) >= _CRITERION_MENTIONED * len(wanted)


def _stem(word: str) -> str:
    """The first six letters: enough for "accuracy" and "accurate" to meet."""
    return word[:6]


def tallied(evaluation: str) -> Side | None:
    """The side whose total is higher, by the last totals an evaluation states for both; None without, or when equal.

    A side's total is the figure after its letter on a line that speaks of a total (``Total: A 82, B 71``;
    ``Overall score of Chatbot B: 6/10``), and of a sum that is worked out there, what it comes to.
    """
    totals: dict[str, float] = {}
    for line in _MARKUP.sub("", evaluation).splitlines():
        if _TOTAL.search(line):
            parts = re.split(r"\b([AB])\b", line)
            for side, after in zip(parts[1::2], parts[2::2], strict=True):
                before, equals, result = after.rpartition("=")
                number = re.search(_NUMBER, result if equals else before or after)
                if number:
                    totals[side] = float(number[1])
    if len(totals) < 2 or totals["A"] == totals["B"]:
        return None
    return "A" if totals["A"] > totals["B"] else "B"
