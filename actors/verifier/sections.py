"""Which parts of a text are a judgment's own sections, and which it only quotes: the scanner under the one parser.

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

Everything here takes any text, never raises on it, and takes time linear in its length.
"""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass
from typing import NamedTuple

_EVIDENCE = ("quote_A", "summary_A", "quote_B", "summary_B")
_PARTS = {"rubric": ("justify",), "eval": _EVIDENCE}
HOME = {part: section for section, parts in _PARTS.items() for part in parts}
"""The section that a part belongs to."""
_MAY_QUOTE = ("think", "solution", "rubric", "eval")
_TAG = re.compile("<(/?)(think|type|solution|rubric|justify|eval|answer|" + "|".join(_EVIDENCE) + ")>")


class Section(NamedTuple):
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


class Scan:
    """One pass over the tags of a text. At most two sections are open at a time: one, and a part of it."""

    def __init__(self, text: str) -> None:
        self.sections: list[Section] = []
        """Closed outermost sections, in order."""
        self.parts: list[Section] = []
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
            if name in HOME:
                self._fault(f"<{name}> outside <{HOME[name]}>")
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
        closed = Section(section.name, section.start, end)
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
        self.sections.append(Section(name, start, end))


def open_thought(text: str) -> str:
    """The text with ``<think>`` before it where its first thought is closed but was opened by the prompt."""
    first = next(iter(Scan(text).sections), None)
    opened_before = first is not None and first.name == "think" and not text.startswith("<think>", first.start)
    return f"<think>\n{text.lstrip()}" if opened_before else text


def own_tags(text: str, thought_opened: bool = False) -> list[tuple[int, int]]:
    """Where a judgment's own tags stand, as ``text[start:end]`` and in order; those it only quotes are left out.

    A thought is its own if the text begins with it, or if the prompt opened it (``thought_opened``): then only its
    closing tag is in the text.
    """
    scan = Scan(text)
    begins = len(text) - len(text.lstrip())
    starts = [section.start for section in scan.sections]
    own = list(scan.sections)
    for part in scan.parts:
        home = bisect(starts, part.start) - 1
        if home >= 0 and scan.sections[home].name == HOME[part.name] and part.end < scan.sections[home].end:
            own.append(part)
    tags = [tag for tag in scan.unclosed if tag[0] == begins or text[slice(*tag)] != "<think>"]
    for section in own:
        opening, closing = section.tags()
        if section.name != "think" or (section.start == begins and text.startswith("<think>", begins)):
            tags += [opening, closing]
        elif thought_opened and section == scan.sections[0]:
            tags.append(closing)
    return sorted(tags)
