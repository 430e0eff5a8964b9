"""A set in the making: every question with its candidates, which questions are still open, and the finished rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.chain_generation.dispatch import Asked
from pipelines.chain_generation.questions import Question, Questions
from pipelines.chain_generation.requests import Answer, Request
from pipelines.chain_generation.selection import Candidate, best
from pipelines.chain_generation.teachers import NamedTeacher


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
        candidate = self._examine(self._by_uid[answer.prompt_uid], answer)
        self.candidates[answer.prompt_uid].append(candidate)
        if candidate.kept:
            self._settled.add(answer.prompt_uid)

    def end_round(self, requests: Iterable[Request], ended: Round) -> None:
        """Note how a round went."""
        self.rounds.append(ended)
        self.unanswered |= {item.prompt_uid for item in requests if item.key not in ended.asked.answers}

    def open_questions(self) -> list[Question]:
        """Questions without a chain that another round may find one for."""
        return [item for item in self.questions.items if item.uid not in self._settled | self.unanswered]

    @property
    def kept_share(self) -> float:
        """Questions with a chain to keep, of those with an answer."""
        answered = sum(bool(candidates) for candidates in self.candidates.values())
        return len(self._settled) / answered if answered else 0.0

    def chains(self) -> list[tuple[Question, Candidate]]:
        """The chosen chain of every question that has one, in the order of the questions."""
        chosen = ((question, best(self.candidates[question.uid])) for question in self.questions.items)
        return [(question, candidate) for question, candidate in chosen if candidate is not None]

    def refused(self) -> list[tuple[Question, Candidate]]:
        """Every candidate with a reason against it, in the order of questions, rounds and samples."""
        return [
            (question, candidate)
            for question in self.questions.items
            for candidate in sorted(
                self.candidates[question.uid], key=lambda item: (item.answer.round, item.answer.sample)
            )
            if not candidate.kept
        ]


def chain_row(question: Question, candidate: Candidate) -> dict[str, Any]:
    """A row of the distillation set: what `make distill` reads (``messages``, ``chain``), and where it comes from."""
    answer = candidate.answer
    metadata = {
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
        "verdict": candidate.verdict,
        "text": answer.text,
        "metadata": json.dumps({"quality": asdict(candidate.quality)}, sort_keys=True),
    }
