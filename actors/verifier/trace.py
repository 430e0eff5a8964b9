"""The one parser of judgments: what a trace decided, and which sections it has.

The rule, for training, evaluation and reports alike:

- A tag counts only as written: ``<eval>``, ``</eval>``; lower case, no blanks, no attributes. The section tags are
  ``think``, ``type``, ``solution``, ``rubric``, ``justify``, ``eval``, ``answer`` and, for evidence in an evaluation,
  ``quote_A``, ``summary_A``, ``quote_B``, ``summary_B``.
- What stands inside a section is that section's text, whatever tags it quotes. Only ``rubric`` has a part of its own
  (``justify``), and ``eval`` has the four evidence tags. Tags of a section's own name inside it are counted, so a
  quoted whole judgment does not end the section that quotes it.
- A closing tag that stands outside every section and has an earlier section of its name shows that this section was
  closed too early by something it quoted: the section goes on to here. A closing ``think`` that nothing opened ends
  a thought which the prompt opened: everything before it is thought.
- A section that is never closed reaches to the end of the text and swallows what looks like an answer there.

Every function takes any text, never raises on it, and takes time linear in its length.
"""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from actors.messages import ParseFailure, Side, Verdict

VerdictMode = Literal["strict", "paper", "reference"]
TaskType = Literal["Reasoning", "Chat"]

PAPER_WINDOW = 80
"""Characters at the end of an output in which the paper's reward looks for the verdict."""

_SIDES: tuple[Side, Side] = ("A", "B")
_EVIDENCE = ("quote_A", "summary_A", "quote_B", "summary_B")
_PARTS = {"rubric": ("justify",), "eval": _EVIDENCE}
_HOME = {part: section for section, parts in _PARTS.items() for part in parts}
_NEEDED = ("type", "solution", "rubric", "justify", "eval", "answer")
_MAY_QUOTE = ("think", "solution", "rubric", "eval")
_TAG = re.compile("<(/?)(think|type|solution|rubric|justify|eval|answer|" + "|".join(_EVIDENCE) + ")>")


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


class _Section(NamedTuple):
    """A closed section: ``text[start:end]`` with its tags. A tuple, because hostile text can hold very many."""

    name: str
    start: int
    end: int

    def body(self, text: str) -> str:
        return text[self.start + len(self.name) + 2 : self.end - len(self.name) - 3]

    def tags(self) -> list[tuple[int, int]]:
        return [(self.start, self.start + len(self.name) + 2), (self.end - len(self.name) - 3, self.end)]


@dataclass(slots=True)
class _Open:
    """A section being read; ``depth`` counts tags of its own name."""

    name: str
    start: int
    depth: int = 1


class _Scan:
    """One pass over the tags of a text. At most two sections are open at a time: one, and a part of it."""

    def __init__(self, text: str) -> None:
        self.sections: list[_Section] = []
        """Closed outermost sections, in order."""
        self.parts: list[_Section] = []
        """Closed parts of sections, in order."""
        self.unclosed: list[tuple[int, int]] = []
        """Opening tags of what was never closed, as ``text[start:end]``."""
        self.faults: dict[str, None] = {}
        """Ordered and without repeats, so that hostile text cannot make it long."""
        self._counts: dict[str, int] = {}
        self._open: list[_Open] = []
        for tag in _TAG.finditer(text):
            if tag[1]:
                self._closing(tag[2], tag.end())
            else:
                self._opening(tag[2], tag.start())
        for section in self._open:
            self.unclosed.append((section.start, section.start + len(section.name) + 2))
            self._fault(f"<{section.name}> is not closed")

    def _fault(self, message: str) -> None:
        self.faults.setdefault(message)

    def _opening(self, name: str, start: int) -> None:
        if not self._open:
            if name in _HOME:
                self._fault(f"<{name}> outside <{_HOME[name]}>")
            self._open.append(_Open(name, start))
            return
        current = self._open[-1]
        if name == current.name:
            current.depth += 1
            self._fault(f"<{name}> inside <{name}>")
        elif name in _PARTS.get(current.name, ()):
            self._open.append(_Open(name, start))

    def _closing(self, name: str, end: int) -> None:
        if not self._open:
            self._unopened(name, end)
            return
        current = self._open[-1]
        if name == current.name:
            current.depth -= 1
            if current.depth == 0:
                self._close(self._open.pop(), end)
        elif name in _PARTS.get(current.name, ()):
            self._fault(f"</{name}> closes nothing")

    def _close(self, section: _Open, end: int) -> None:
        closed = _Section(section.name, section.start, end)
        if self._open:
            self.parts.append(closed)
            return
        self._counts[section.name] = self._counts.get(section.name, 0) + 1
        self.sections.append(closed)

    def _unopened(self, name: str, end: int) -> None:
        """A closing tag outside every section: the last section of its name goes on to here."""
        if name not in _MAY_QUOTE or not (self._counts.get(name) or name == "think"):
            self._fault(f"</{name}> closes nothing")
            return
        start = 0
        while self.sections:
            dropped = self.sections.pop()
            self._counts[dropped.name] -= 1
            if dropped.name == name:
                start = dropped.start
                self._fault(f"</{name}> closes <{name}> again")
                break
        self._counts[name] = self._counts.get(name, 0) + 1
        self.sections.append(_Section(name, start, end))


def open_thought(text: str) -> str:
    """The text with ``<think>`` before it where its first thought is closed but was opened by the prompt."""
    first = next(iter(_Scan(text).sections), None)
    opened_before = first is not None and first.name == "think" and not text.startswith("<think>", first.start)
    return f"<think>\n{text.lstrip()}" if opened_before else text


def _full_tag(side: Side) -> str:
    return f"<answer>[[{side}]]</answer>"


def read_verdict(text: str, mode: VerdictMode = "paper", *, truncated: bool = False) -> Verdict:
    """Read which side a trace prefers.

    ``strict``: the full answer tag, ``<answer>[[A]]</answer>`` or that of B, is the last thing in the text (white space
    may follow), stands outside every other section by this module's rule, and no other answer outside every section
    names the other side. What an evaluation, a solution, a rubric or a thought quotes is never the verdict.

    ``paper``: the last 80 characters hold the full answer tag of one side and not that of the other, as the reward of
    RM-R1 (arXiv 2505.02387) reads it.

    ``reference``: ``[[A]]`` or ``[[B]]`` anywhere and not both, as the benchmark evaluation released with RM-R1 reads
    it.

    Where ``strict`` and ``paper`` both give a side it is the same one.

    Args:
        text: the generated text, without the prompt.
        mode: the rule.
        truncated: generation ended at the length limit. It changes only the cause given when no verdict is found.

    Returns:
        A verdict with its side, or with the cause: ``empty`` (nothing but white space), ``both_found``, ``truncated``
        (none found and ``truncated``), ``none_found``.

    Raises:
        ValueError: an unknown mode.

    """
    if mode not in get_args(VerdictMode):
        raise ValueError(f"unknown verdict mode {mode!r}: choose {', '.join(get_args(VerdictMode))}")
    if not text or text.isspace():
        return Verdict(None, "empty")
    missing: ParseFailure = "truncated" if truncated else "none_found"
    found: list[Side]
    if mode == "strict":
        return _read_strict(text, missing)
    if mode == "paper":
        window = text[-PAPER_WINDOW:]
        found = [side for side in _SIDES if _full_tag(side) in window]
    else:
        found = [side for side in _SIDES if f"[[{side}]]" in text]
    if len(found) == 2:
        return Verdict(None, "both_found")
    return Verdict(found[0], None) if found else Verdict(None, missing)


def _read_strict(text: str, missing: ParseFailure) -> Verdict:
    named: set[Side] = set()
    last: Side | None = None
    end = len(text.rstrip())
    for section in _Scan(text).sections:
        side = _side(section.body(text)) if section.name == "answer" else None
        if side is not None:
            named.add(side)
            last = side if section.end == end else None
    if len(named) == 2:
        return Verdict(None, "both_found")
    return Verdict(None, missing) if last is None else Verdict(last, None)


def _side(body: str) -> Side | None:
    return next((side for side in _SIDES if body == f"[[{side}]]"), None)


def parse(text: str) -> Judgment:
    """Take a chain-of-rubrics judgment apart. Of a repeated section the last one is given."""
    scan = _Scan(text)
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
    problems = (*scan.faults, *_shape_problems(text, scan.sections, bodies, task_type, len(inside)))
    return Judgment(
        task_type=task_type,
        solution=bodies.get("solution"),
        rubric=bodies.get("rubric"),
        justify=bodies.get("justify"),
        evaluation=bodies.get("eval"),
        answer=bodies.get("answer"),
        problems=problems,
    )


def own_tags(text: str, thought_opened: bool = False) -> list[tuple[int, int]]:
    """Where a judgment's own tags stand, as ``text[start:end]`` and in order; those it only quotes are left out.

    A thought is its own if the text begins with it, or if the prompt opened it (``thought_opened``): then only its
    closing tag is in the text.
    """
    scan = _Scan(text)
    begins = len(text) - len(text.lstrip())
    starts = [section.start for section in scan.sections]
    own = list(scan.sections)
    for part in scan.parts:
        home = bisect(starts, part.start) - 1
        if home >= 0 and scan.sections[home].name == _HOME[part.name] and part.end < scan.sections[home].end:
            own.append(part)
    tags = [tag for tag in scan.unclosed if tag[0] == begins or text[slice(*tag)] != "<think>"]
    for section in own:
        opening, closing = section.tags()
        if section.name != "think" or (section.start == begins and text.startswith("<think>", begins)):
            tags += [opening, closing]
        elif thought_opened and section == scan.sections[0]:
            tags.append(closing)
    return sorted(tags)


def _shape_problems(
    text: str, sections: list[_Section], bodies: dict[str, str], task_type: TaskType | None, justifications: int
) -> list[str]:
    """Which sections are missing, repeated, empty, unknown or out of order."""
    middle = "solution" if task_type == "Reasoning" or (task_type is None and "solution" in bodies) else "rubric"
    wanted = ["type", middle, "eval", "answer"]
    names = [section.name for section in sections if section.name not in ("think", *_HOME)]
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
        if _side(bodies["answer"]) is None:
            problems.append("<answer> is neither [[A]] nor [[B]]")
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
