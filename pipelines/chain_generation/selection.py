"""Which answers become chains: every reason to refuse one, and the choice among those that may be kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.messages import Side
from actors.verifier.trace import read_verdict
from pipelines.chain_generation.betrayal import BetrayalLint
from pipelines.chain_generation.quality import TraceQuality, measure
from pipelines.chain_generation.questions import Question
from pipelines.config import ChainFilters
from pipelines.endpoints.requests import FIRST_PASS, Answer

RATED_WRONG = "rated against the label"
"""Why both ratings of a pair are refused: the better response has not the higher one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer, read and measured."""

    answer: Answer
    verdict: Side | None
    """Which response it puts first; None where it rates one."""
    quality: TraceQuality
    cause: str | None
    """Why it is refused, short and countable; None: it may be kept."""
    detail: str = ""
    rating: int | None = None

    @property
    def kept(self) -> bool:
        """Whether it may be kept."""
        return self.cause is None


def examine(question: Question, answer: Answer, filters: ChainFilters, lint: BetrayalLint) -> Candidate:
    """Read an answer, measure it, and find the first reason to refuse it.

    A rating is right or wrong only beside that of the pair's other response, which the collection compares.
    """
    text = answer.chain
    cut = answer.finish_reason == "length"
    verdict = read_verdict(text, "strict", truncated=cut, judged=question.mode, responses=question.responses)
    quality = measure(text, question.judged, judged=question.mode, responses=question.responses)
    cause, detail = None, ""
    if cut:
        cause = "cut at the token limit"
    elif verdict.cause is not None:
        cause, detail = "no verdict", verdict.cause.replace("_", " ")
    elif question.mode != "pointwise" and verdict.side != question.label:
        cause = "wrong verdict"
    elif filters.well_formed and not quality.well_formed:
        cause, detail = "not well formed", "; ".join(quality.problems)
    elif answer.round != FIRST_PASS and (found := lint.find(text, question.messages)):
        cause, detail = "betrays the hint", found
    else:
        cause, detail = _filtered(quality, filters)
    return Candidate(answer, verdict.side, quality, cause, detail, verdict.rating)


def _filtered(quality: TraceQuality, filters: ChainFilters) -> tuple[str | None, str]:
    """The first filter a trace does not pass, and by what; (None, "") when it passes all."""
    found, mentioned = quality.quotes_found, quality.criteria_mentioned
    if quality.quotes < filters.quotes:
        return "too few quotes", f"{quality.quotes} of {filters.quotes}"
    if found is not None and found < filters.quotes_found:
        return "quotes not found", f"{found:.2f} below {filters.quotes_found:g}"
    if filters.weights_add_up and quality.weights_add_up is False:
        return "weights do not add up", f"{quality.weights_sum:g}%"
    if mentioned is not None and mentioned < filters.criteria_mentioned:
        return "criteria not mentioned", f"{mentioned:.2f} below {filters.criteria_mentioned:g}"
    if filters.tally_agrees and quality.tally_agrees is False:
        return "against its own tally", f"totals favour {quality.tally}"
    if quality.words < filters.min_words:
        return "too short", f"{quality.words} words"
    if filters.max_words and quality.words > filters.max_words:
        return "too long", f"{quality.words} words"
    return None, ""


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate to keep: the highest quality score, then the first sample; None when all are refused."""
    kept = [candidate for candidate in candidates if candidate.kept]
    return min(kept, key=lambda item: (-item.quality.score, item.answer.sample)) if kept else None


def flawed_attempt(candidates: Sequence[Candidate]) -> str:
    """What the second teacher is shown of the refused candidates of a question.

    One that argues for the wrong side says most, one that was cut least, and of equals the latest. One that betrays the
    hint is never shown, because it would invite another.
    """
    rank = {"wrong verdict": 0, RATED_WRONG: 0, "cut at the token limit": 2}
    usable = [item for item in candidates if item.cause != "betrays the hint" and item.answer.text.strip()]
    if not usable:
        return "(nothing)"
    shown = min(usable, key=lambda item: (rank.get(item.cause or "", 1), -item.answer.round, item.answer.sample))
    return shown.answer.chain
