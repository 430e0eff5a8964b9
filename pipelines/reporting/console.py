"""What a person sees on the terminal: stages, progress, results, and two judgments to read.

On a terminal a stage is one live line; anywhere else (a pipe, a log file, a Ray job) it is a plain line now and then.
Text that comes from data or from a model is never read as markup, and its control characters are not passed on.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.console import Group
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from actors.messages import Side

_PLAIN_WIDTH = 120
_PLAIN_LINES = 20
"""Lines a stage prints where there is no terminal, besides the first step's."""
_SHOWN_METRICS = (
    ("loss", "loss", "{:.3f}"),
    ("reward", "reward", "{:+.2f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("eval/accuracy", "held out", "{:.1%}"),
    ("tokens_per_second", "", "{:,.0f} tokens/s"),
    ("kept", "kept", "{:.1%}"),
    ("answers_per_minute", "", "{:,.0f} answers/min"),
    ("tokens", "", "{:,.0f} tokens"),
    ("cost", "cost", "{:,.2f}"),
)
_MAX_DOMAIN_COLUMNS = 4
_EXAMPLE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class JudgmentExample:
    """One judgment to show: what was asked, what the judge wrote, and whether its verdict is right."""

    question: str
    response_a: str
    response_b: str
    text: str
    label: Side
    """The better side."""
    verdict: Side | None
    """None where no verdict could be read."""
    title: str = ""
    """For example the domain and the stage."""


class StageProgress:
    """The progress of one stage. Metrics a step does not report keep the value they had."""

    def __init__(
        self, stage: str, total: int, done: int, draw: Callable[[int, str], None], clock: Callable[[], float]
    ) -> None:
        self._stage = stage
        self._total = total
        self._draw = draw
        self._clock = clock
        self._metrics: dict[str, float] = {}
        # A window, so that start-up and one slow evaluation do not bend the estimate for the whole stage.
        self._marks: deque[tuple[float, int]] = deque([(clock(), done)], maxlen=32)

    def update(self, done: int, metrics: Mapping[str, float] | None = None) -> None:
        """Say that ``done`` steps of the total are finished, with the last one's metrics (``metrics.jsonl`` names)."""
        self._metrics.update(metrics or {})
        self._marks.append((self._clock(), done))
        self._draw(done, self.describe())

    def seconds_left(self) -> float | None:
        """Seconds to the end at the pace of the last steps; None before the first."""
        (start, first), (now, last) = self._marks[0], self._marks[-1]
        if last <= first:
            return None
        return max(0.0, (now - start) / (last - first) * (self._total - last))

    def describe(self) -> str:
        """Time left and the metrics worth a glance, as one line; a narrow terminal cuts its end."""
        shown = [name for name, _, _ in _SHOWN_METRICS if name in self._metrics]
        if "reward" in shown and "loss" in shown:
            shown.remove("loss")  # A policy loss is near zero by construction and says nothing at a glance.
        parts = [
            f"{label} {pattern.format(self._metrics[name])}".strip()
            for name, label, pattern in _SHOWN_METRICS
            if name in shown
        ]
        left = self.seconds_left()
        return " · ".join(parts if left is None else [f"{duration(left)} left", *parts])


class Console:
    """The terminal of a pipeline. ``stream`` is standard output unless a test passes another."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        stream = stream or sys.stdout
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._clock = clock
        self._rich = RichConsole(
            file=stream, highlight=False, soft_wrap=False, force_terminal=force_terminal, width=width
        )
        if width is None and not self._rich.is_terminal:
            self._rich = RichConsole(file=stream, highlight=False, width=_PLAIN_WIDTH)

    @property
    def live(self) -> bool:
        """Whether progress is drawn in place."""
        return self._rich.is_terminal and not self._rich.is_dumb_terminal

    def header(self, stage: str, detail: str = "") -> None:
        """Open a stage: its name and, in short, what it will do."""
        self._rich.print()
        self._rich.print(self._text((f"{stage}", "bold cyan"), (f"  {detail}" if detail else "", "dim")))

    def note(self, message: str) -> None:
        """Say one thing."""
        self._rich.print(self._text(("  " + message, "")), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Say one thing that needs attention."""
        self._rich.print(self._text(("  warning: ", "bold yellow"), (message, "")), soft_wrap=True)

    def error(self, message: str) -> None:
        """Say why the pipeline ends here."""
        self._rich.print(self._text(("error: ", "bold red"), (message, "")), soft_wrap=True)

    @contextmanager
    def progress(self, stage: str, total: int, done: int = 0) -> Iterator[StageProgress]:
        """Show a stage of ``total`` steps, ``done`` of them finished before; call ``update`` after each step."""
        if not self.live:
            yield StageProgress(stage, total, done, self._plain_drawer(stage, total), self._clock)
            return
        bar_width = 24 if self._rich.width >= _PLAIN_WIDTH else 8
        room = self._rich.width - (len("x ") + len(stage) + 1 + bar_width + 1 + 2 * len(str(total)) + 2)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            BarColumn(bar_width=bar_width),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[line]}", markup=False),
        )
        with Progress(*columns, console=self._rich, refresh_per_second=4) as bar:
            task: TaskID = bar.add_task(stage, total=total, completed=done, stage=stage, line="")

            def draw(now: int, line: str) -> None:
                bar.update(task, completed=now, line=self._safe(line)[: max(0, room)])

            yield StageProgress(stage, total, done, draw, self._clock)

    def _plain_drawer(self, stage: str, total: int) -> Callable[[int, str], None]:
        every = max(1, math.ceil(total / _PLAIN_LINES))
        last: int | None = None

        def draw(now: int, line: str) -> None:
            nonlocal last
            if last is None or now // every > last // every or (now >= total > last):
                self._rich.print(self._text((f"  {stage} {now}/{total}  {line}", "")), soft_wrap=True)
                last = now

        return draw

    def results(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """The final table: one row per stage (``before``, ``distill``, ``rl``), values as in ``summary.json``.

        A stage whose value is None or empty is left out; a metric that is not there shows as a dash.
        """
        rows = {stage: values for stage, values in rows.items() if values}
        sizes: dict[str, float] = {}
        for values in rows.values():
            for domain, part in (values.get("by_domain") or {}).items():
                sizes[domain] = max(sizes.get(domain, 0), part.get("n") or 0)
        domains = sorted(sorted(sizes, key=lambda name: -sizes[name])[:_MAX_DOMAIN_COLUMNS])
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for title in ("accuracy", *domains, "both orders right", "flips", "parsed", "tokens"):
            table.add_column(self._text((title, "")), justify="right")
        for stage, values in rows.items():
            by_domain = values.get("by_domain") or {}
            cells = [percent(values.get("accuracy"))]
            cells += [percent((by_domain.get(domain) or {}).get("accuracy")) for domain in domains]
            cells += [percent(values.get(name)) for name in ("consistent_accuracy", "flip_rate", "parse_rate")]
            tokens = values.get("mean_tokens")
            cells.append("-" if tokens is None else f"{tokens:,.1f}")
            table.add_row(self._text((stage, "bold")), *cells)
        self._rich.print(table)

    def checks(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """A table of checks: name, status (``pass``, ``warn``, ``fail``, ``n/a``) and what was found."""
        styles = {"pass": "green", "warn": "yellow", "fail": "bold red"}
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
        for name, status, summary in rows:
            table.add_row(name, Text(status, styles.get(status, "dim")), Text(self._safe(summary)))
        self._rich.print(table)

    def facts(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """A table of facts: name, value, and what there is to say about it."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(self._safe(cell)) for cell in row))
        self._rich.print(table)

    def examples(self, examples: Sequence[JudgmentExample]) -> None:
        """Judgments to read, each under the question it answers; very long texts are cut, and the cut is said."""
        for example in examples:
            right = example.verdict == example.label
            outcome = "no verdict" if example.verdict is None else f"verdict {example.verdict}"
            mark = ("right", "bold green") if right else ("wrong", "bold red")
            lines = [
                self._text(("question  ", "dim"), (_cut(example.question), "")),
                self._text(("A  ", "dim"), (_cut(example.response_a), "")),
                self._text(("B  ", "dim"), (_cut(example.response_b), "")),
                Text(""),
                self._text((_cut(example.text), "")),
                Text(""),
                self._text((f"{outcome}, better is {example.label}: ", "dim"), mark),
            ]
            title = self._text((example.title or "judgment", "bold"))
            self._rich.print(Panel(Group(*lines), title=title, title_align="left", border_style="dim"))

    def report(self, path: str | Path) -> None:
        """Where the report is."""
        self._rich.print(self._text(("  report  ", "dim"), (str(path), "bold")), soft_wrap=True)

    def _text(self, *parts: tuple[str, str]) -> Text:
        return Text.assemble(*((self._safe(content), style) for content, style in parts))

    def _safe(self, content: str) -> str:
        """``content`` without control characters, in what the stream can encode."""
        printable = "".join(
            character if character in "\n\t" or not _is_control(character) else "\N{REPLACEMENT CHARACTER}"
            for character in content
        )
        return printable.encode(self._encoding, errors="replace").decode(self._encoding)


def _cut(content: str) -> str:
    if len(content) <= _EXAMPLE_CHARACTERS:
        return content
    return f"{content[:_EXAMPLE_CHARACTERS]} … ({len(content) - _EXAMPLE_CHARACTERS:,} more characters)"


def _is_control(character: str) -> bool:
    code = ord(character)
    # C0, DEL and C1 steer a terminal; the bidirectional overrides reorder what stands around them.
    return code < 32 or 127 <= code < 160 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def percent(value: float | None) -> str:
    """A fraction of 1 as a percentage with one decimal; a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as ``45s``, ``3m 05s`` or ``2h 07m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
