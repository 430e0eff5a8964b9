"""A set in the making: every question with its candidates, which questions are still open, and the finished rows.

A rating says nothing of who is better. So both ratings of a pair are asked for, and are kept or refused together: kept
are two of which the better response has the higher one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from actors.verifier.trace import HIGHEST, LOWEST
from pipelines.chain_generation.questions import Question, Questions
from pipelines.chain_generation.selection import RATED_WRONG, Candidate, best
from pipelines.endpoints.dispatch import Asked
from pipelines.endpoints.requests import Answer, Request
from pipelines.endpoints.teachers import NamedTeacher


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over the open questions."""

    number: int
    name: str
    teacher: NamedTeacher
    requests: int
    asked: Asked


class Collection:
    """Candidates by question. ``examine`` says of an answer what it is worth."""

    def __init__(self, questions: Questions, examine: Callable[[Question, Answer], Candidate]) -> None:
        self.questions = questions
        self.rounds: list[Round] = []
        self.candidates: dict[str, list[Candidate]] = {question.uid: [] for question in questions.items}
        self._examine = examine
        self._by_uid = {question.uid: question for question in questions.items}
        self._settled: set[str] = set()
        """Questions with a candidate to keep."""
        self.unanswered: set[str] = set()
        """Questions with a request that failed or was not sent: they wait for a later run, which sends it again."""

    def add(self, answer: Answer) -> None:
        """Examine an answer and keep it as a candidate."""
        question = self._by_uid[answer.prompt_uid]
        candidate = self._examine(question, answer)
        self.candidates[question.uid].append(candidate)
        if question.mode == "pointwise":
            if candidate.kept and self._ratings(question) is not None:
                self._settled |= {question.uid, question.other}
        elif candidate.kept:
            self._settled.add(question.uid)

    def _ratings(self, question: Question) -> tuple[Candidate, Candidate] | None:
        """Two ratings of a pair to keep, the better response's first; None: none agree with the label.

        Of several it is the two of the highest quality, then those that were asked for first.
        """
        better, worse = self._both(question)
        right = [
            (one, two)
            for one, two in product(better, worse)
            if one.kept and two.kept and (one.rating or 0) > (two.rating or 0)
        ]
        return min(right, key=_by_quality, default=None)

    def _both(self, question: Question) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
        """Candidates of both ratings of a pair, those of the better response first."""
        mine, others = self.candidates[question.uid], self.candidates.get(question.other, [])
        return (mine, others) if question.label == "A" else (others, mine)

    def told(self, question: Question) -> str:
        """What a hint says is right: the better response's letter, or on which side of both ratings' mean one is."""
        if question.mode != "pointwise":
            return question.label
        so_far = [one.rating for side in self._both(question) for one in side if one.rating is not None]
        middle = sum(so_far) / len(so_far) if so_far else (LOWEST + HIGHEST) / 2
        least = min(max(int(middle) + 1, LOWEST + 1), HIGHEST)
        return f"a rating of at least {least}" if question.label == "A" else f"a rating of at most {least - 1}"

    def end_round(self, requests: Iterable[Request], ended: Round) -> None:
        """Note how a round went."""
        self.rounds.append(ended)
        self.unanswered |= {item.prompt_uid for item in requests if item.key not in ended.asked.answers}

    def open_questions(self) -> list[Question]:
        """Questions without a chain that another round may find one for."""
        closed = self._settled | self.unanswered
        return [
            item
            for item in self.questions.items
            if item.uid not in closed and not (item.mode == "pointwise" and item.other in self.unanswered)
        ]

    @property
    def kept_share(self) -> float:
        """Questions with a chain to keep, of those with an answer."""
        answered = sum(bool(candidates) for candidates in self.candidates.values())
        return len(self._settled) / answered if answered else 0.0

    def chains(self) -> list[tuple[Question, Candidate]]:
        """The chosen chain of every question that has one, in the order of the questions."""
        chosen = ((question, self._best(question)) for question in self.questions.items)
        return [(question, candidate) for question, candidate in chosen if candidate is not None]

    def _best(self, question: Question) -> Candidate | None:
        if question.mode != "pointwise":
            return best(self.candidates[question.uid])
        both = self._ratings(question)
        return None if both is None else both[question.label != "A"]

    def examined(self, question: Question) -> list[Candidate]:
        """The candidates of a question. A rating that goes with none of the other response's is refused."""
        candidates = self.candidates[question.uid]
        if question.mode != "pointwise":
            return candidates
        others = [one.rating or 0 for one in self.candidates.get(question.other, []) if one.kept]
        said = (
            f", the {'worse' if question.label == 'A' else 'better'} response {', '.join(map(str, others)) or 'none'}"
        )

        def goes_with_one(rating: int) -> bool:
            return rating > min(others) if question.label == "A" else rating < max(others)

        return [
            replace(one, cause=RATED_WRONG, detail=f"{one.rating}{said}")
            if one.kept and not (others and goes_with_one(one.rating or 0))
            else one
            for one in candidates
        ]

    def right(self, question: Question, candidate: Candidate) -> bool | None:
        """Whether an answer agrees with the label, a rating beside the other response's of the same round and sample.

        None: there is no such rating to compare with.
        """
        if question.mode != "pointwise":
            return candidate.verdict == question.label
        asked = candidate.answer.round, candidate.answer.sample
        others = self.candidates.get(question.other, [])
        other = next((one for one in others if (one.answer.round, one.answer.sample) == asked), None)
        if other is None:
            return None
        if candidate.rating is None or other.rating is None or candidate.rating == other.rating:
            return False
        return (candidate.rating > other.rating) == (question.label == "A")

    def refused(self) -> list[tuple[Question, Candidate]]:
        """Every candidate with a reason against it, in the order of questions, rounds and samples."""
        return [
            (question, candidate)
            for question in self.questions.items
            for candidate in sorted(self.examined(question), key=lambda item: (item.answer.round, item.answer.sample))
            if not candidate.kept
        ]


def _by_quality(both: tuple[Candidate, Candidate]) -> tuple[float, list[tuple[int, int]]]:
    return -sum(one.quality.score for one in both), [(one.answer.round, one.answer.sample) for one in both]


def chain_row(question: Question, candidate: Candidate) -> dict[str, Any]:
    """A row of the distillation set: what `make distill` reads (``messages``, ``chain``), and where it comes from."""
    answer = candidate.answer
    metadata = {
        "mode": question.mode,
        "round": answer.round,
        "sample": answer.sample,
        "model": answer.model,
        "request": answer.key,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "quality": asdict(candidate.quality) | {"score": candidate.quality.score},
    }
    return {
        "messages": [dict(message) for message in question.learned_messages],
        "chain": answer.chain,
        "pair_id": question.pair.id,
        "order": question.order,
        "label": question.label,
        "source": question.pair.source,
        "domain": question.pair.domain,
        "metadata": json.dumps(metadata, sort_keys=True),
    }


def refused_row(question: Question, candidate: Candidate) -> dict[str, Any]:
    """A refused answer, to read why."""
    answer = candidate.answer
    return {
        "pair_id": question.pair.id,
        "order": question.order,
        "label": question.label,
        "domain": question.pair.domain,
        "round": answer.round,
        "sample": answer.sample,
        "model": answer.model,
        "cause": candidate.cause,
        "detail": candidate.detail,
        "verdict": candidate.verdict if candidate.rating is None else str(candidate.rating),
        "text": answer.text,
        "metadata": json.dumps({"mode": question.mode, "quality": asdict(candidate.quality)}, sort_keys=True),
    }
