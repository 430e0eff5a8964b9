"""The one parser of judgments: what a trace decided, and which sections it has.

A judge is asked in one of three modes, each a row of :data:`ANSWERS`: which of two responses is better (pairwise), a
rating of one (pointwise), an order of at most four (listwise). Which text counts as a judgment's own answer is the same
in all of them; :mod:`actors.verifier.sections` tells it from what is quoted.

Every function takes any text, never raises on it, and takes time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast, get_args

from actors.messages import JudgeMode, ParseFailure, Side, Verdict
from actors.verifier.sections import HOME, Scan, Section

VerdictMode = Literal["strict", "paper", "reference"]
TaskType = Literal["Reasoning", "Chat"]

PAPER_WINDOW = 80
"""Characters at the end of an output in which the paper's reward looks for the verdict."""

LETTERS: tuple[Side, ...] = get_args(Side)
"""Under which responses are shown, in their order."""
LOWEST, HIGHEST = 1, 10
"""The scale of ratings."""
_NEEDED = ("type", "solution", "rubric", "justify", "eval", "answer")


@dataclass(frozen=True, slots=True)
class Judgment:
    """A trace taken apart. A section is the raw text between its tags, or None where it is missing or not closed."""

    task_type: TaskType | None
    solution: str | None
    rubric: str | None
    """With the justification's tags and text, where they stand in it."""
    justify: str | None
    evaluation: str | None
    answer: str | None
    problems: tuple[str, ...]
    """What keeps the judgment from being well formed, each kind of fault once; empty when nothing does."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """What an answer may say in one mode: a row of the parser."""

    body: str
    """Regular expression of what stands between ``[[`` and ``]]``."""
    verdict: Callable[[str, int], Verdict | None]
    """What a body says of so many responses; None where it says nothing of them."""
    wanted: str
    """For the fault of an answer that is none: what it should be."""


def _side_of(body: str, responses: int) -> Verdict | None:
    return Verdict(cast(Side, body), None)


def _rating_of(body: str, responses: int) -> Verdict | None:
    return Verdict(None, None, rating=int(body))


def _order_of(body: str, responses: int) -> Verdict | None:
    """An order of all responses, each once; the first of them is the side."""
    order = cast("tuple[Side, ...]", tuple(letter.strip() for letter in body.split(">")))
    return Verdict(order[0], None, ranking=order) if sorted(order) == list(LETTERS[:responses]) else None


ANSWERS: Mapping[JudgeMode, AnswerRow] = MappingProxyType(
    {
        "pairwise": AnswerRow("[AB]", _side_of, "neither [[A]] nor [[B]]"),
        "pointwise": AnswerRow("10|[1-9]", _rating_of, f"no rating from [[{LOWEST}]] to [[{HIGHEST}]]"),
        "listwise": AnswerRow("[A-D](?: ?> ?[A-D]){1,3}", _order_of, "no order of all answers, such as [[B > A]]"),
    }
)
_MARKS = {mode: re.compile(rf"\[\[({row.body})\]\]") for mode, row in ANSWERS.items()}
_TAGS = {mode: re.compile(rf"<answer>\[\[({row.body})\]\]</answer>") for mode, row in ANSWERS.items()}


def read_verdict(
    text: str,
    mode: VerdictMode = "paper",
    *,
    truncated: bool = False,
    judged: JudgeMode = "pairwise",
    responses: int = 2,
) -> Verdict:
    """Read what a trace decided: a side, a rating or an order, as ``judged`` asks for.

    ``strict``: the full answer tag, such as ``<answer>[[A]]</answer>``, is the last thing in the text (white space
    may follow), stands outside every other section by :mod:`actors.verifier.sections`, and no other answer outside
    every section says something else. What an evaluation, a solution, a rubric or a thought quotes is never the
    verdict.

    ``paper``: the last 80 characters hold the full answer tag of one answer and of no other, as the reward of
    RM-R1 (arXiv 2505.02387) reads it.

    ``reference``: one answer in ``[[...]]`` anywhere and no other, as the benchmark evaluation released with RM-R1
    reads it.

    Where ``strict`` and ``paper`` both give an answer it is the same one.

    Args:
        text: the generated text, without the prompt.
        mode: the rule.
        truncated: generation ended at the length limit. It changes only the cause given when no verdict is found.
        judged: what the prompt asked for.
        responses: how many responses an order has to name.

    Returns:
        A verdict with what was read, or with the cause: ``empty`` (nothing but white space), ``both_found``,
        ``truncated`` (none found and ``truncated``), ``none_found``.

    Raises:
        ValueError: an unknown mode.

    """
    if mode not in get_args(VerdictMode):
        raise ValueError(f"unknown verdict mode {mode!r}: choose {', '.join(get_args(VerdictMode))}")
    if not text or text.isspace():
        return Verdict(None, "empty")
    missing: ParseFailure = "truncated" if truncated else "none_found"
    if mode == "strict":
        return _read_strict(text, missing, judged, responses)
    marks = _TAGS[judged].findall(text[-PAPER_WINDOW:]) if mode == "paper" else _MARKS[judged].findall(text)
    found = {verdict for body in set(marks) if (verdict := ANSWERS[judged].verdict(body, responses))}
    if len(found) > 1:
        return Verdict(None, "both_found")
    return found.pop() if found else Verdict(None, missing)


def _read_strict(text: str, missing: ParseFailure, judged: JudgeMode, responses: int) -> Verdict:
    named: set[Verdict] = set()
    last: Verdict | None = None
    end = len(text.rstrip())
    for section in Scan(text).sections:
        verdict = _answer(section.body(text), judged, responses) if section.name == "answer" else None
        if verdict is not None:
            named.add(verdict)
            last = verdict if section.end == end else None
    if len(named) > 1:
        return Verdict(None, "both_found")
    return last or Verdict(None, missing)


def _answer(body: str, judged: JudgeMode, responses: int) -> Verdict | None:
    """What an answer's text says; None where that is nothing, or more than one answer."""
    mark = _MARKS[judged].fullmatch(body)
    return ANSWERS[judged].verdict(mark[1], responses) if mark else None


def parse(text: str, judged: JudgeMode = "pairwise", responses: int = 2) -> Judgment:
    """Take a chain-of-rubrics judgment apart. Of a repeated section the last one is given."""
    scan = Scan(text)
    bodies = {section.name: section.body(text) for section in scan.sections}
    rubric = next((section for section in reversed(scan.sections) if section.name == "rubric"), None)
    justifications = [part for part in scan.parts if part.name == "justify"]
    inside = [part for part in justifications if rubric and rubric.start < part.start < rubric.end]
    if inside:
        bodies["justify"] = inside[-1].body(text)
    elif rubric is not None:
        bodies.pop("justify", None)
    named = bodies.get("type", "").strip()
    task_type = next((kind for kind in get_args(TaskType) if named == kind), None)
    said = _answer(bodies.get("answer", ""), judged, responses)
    unsaid = None if said else f"<answer> is {ANSWERS[judged].wanted}"
    problems = (*scan.faults, *_shape_problems(text, scan.sections, bodies, task_type, len(inside), unsaid))
    return Judgment(
        task_type=task_type,
        solution=bodies.get("solution"),
        rubric=bodies.get("rubric"),
        justify=bodies.get("justify"),
        evaluation=bodies.get("eval"),
        answer=bodies.get("answer"),
        problems=problems,
    )


def _shape_problems(
    text: str,
    sections: list[Section],
    bodies: dict[str, str],
    task_type: TaskType | None,
    justifications: int,
    unsaid: str | None,
) -> list[str]:
    """Which sections are missing, repeated, empty, unknown or out of order; ``unsaid`` is the fault of an answer."""
    middle = "solution" if task_type == "Reasoning" or (task_type is None and "solution" in bodies) else "rubric"
    wanted = ["type", middle, "eval", "answer"]
    names = [section.name for section in sections if section.name not in ("think", *HOME)]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    problems = [f"<{name}> is missing" for name in wanted if name not in counts]
    problems += [f"<{name}> is repeated" for name, count in counts.items() if count > 1]
    problems += [f"<{name}> does not belong here" for name in counts if name not in wanted]
    if [name for name in counts if name in wanted] != [name for name in wanted if name in counts]:
        problems.append("sections are out of order")
    if any(section.name == "think" for section in sections[1:]):
        problems.append("<think> is not first")
    if middle == "rubric" and "rubric" in counts:
        if not justifications:
            problems.append("<justify> is missing")
        if justifications > 1:
            problems.append("<justify> is repeated")
    problems += [f"<{name}> is empty" for name, body in bodies.items() if name in _NEEDED and not body.strip()]
    if "type" in counts and task_type is None:
        problems.append(f"<type> is neither {' nor '.join(get_args(TaskType))}")
    if "answer" in counts:
        if unsaid is not None:
            problems.append(unsaid)
        if sections[-1].name != "answer" or sections[-1].end != len(text.rstrip()):
            problems.append("<answer> is not last")
    return problems


def well_formed(judgment: Judgment) -> bool:
    """Whether every needed section is there, closed, nested right, in order, and the answer is last.

    Needed are the type, then the solution (Reasoning) or the rubric with its justification inside (Chat), then the
    evaluation, then the answer; a thought may come before them and prose may stand between them. Evidence tags are
    optional and belong inside the evaluation.
    """
    return not judgment.problems
