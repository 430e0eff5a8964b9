"""What a check found, and what it means for the data set: the checks by name, their levels, their status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.messages import Order
from pipelines.config import ConfigError, nearest
from pipelines.data.schema import PreferencePair

Level = Literal["fail", "warn", "off"]
LEVELS: dict[str, Level] = {
    "positions": "fail",
    "label_leak": "fail",
    "duplicates_across_splits": "fail",
    "benchmark_overlap": "fail",
    "near_duplicates_across_splits": "warn",
    "duplicates": "warn",
    "near_duplicates": "warn",
    "contradictions": "warn",
    "label_agreement": "warn",
    "length_bias": "warn",
    "markdown_bias": "warn",
    "truncated": "warn",
    "roles": "warn",
    "bad_rows": "warn",
    "source_counts": "warn",
}
"""Every check, and what its finding does by default."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair in one order, in one split: what a judge will see."""

    pair: PreferencePair
    order: Order
    split: str

    @property
    def first(self) -> bool:
        """Whether the better response is shown first."""
        return self.order == "chosen_first"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool | None
    """None: the data cannot answer, ``summary`` says why."""
    summary: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    """A few places to look at, in words."""


@dataclass(frozen=True, slots=True)
class Check:
    """A finding at its level."""

    finding: Finding
    level: Level

    @property
    def status(self) -> str:
        """``pass``, ``fail``, ``warn``, or ``n/a`` where the data cannot answer."""
        if self.finding.ok is None:
            return "n/a"
        return "pass" if self.finding.ok else self.level

    def as_json(self) -> dict[str, Any]:
        """The row of ``lint.json``."""
        return {
            "check": self.finding.check,
            "status": self.status,
            "level": self.level,
            "summary": self.finding.summary,
            "numbers": dict(self.finding.numbers),
            "examples": list(self.finding.examples),
        }


def levels(changed: Mapping[str, str]) -> dict[str, Level]:
    """The default levels with the user's changes.

    Raises:
        ConfigError: an unknown check or level.

    """
    result = dict(LEVELS)
    for check, level in changed.items():
        if check not in LEVELS:
            raise ConfigError(f"data.lint.levels: there is no check {check!r}{nearest(check, list(LEVELS))}")
        if level not in ("fail", "warn", "off"):
            raise ConfigError(f"data.lint.levels.{check}={level!r} is not one of fail, warn, off")
        result[check] = level  # type: ignore[assignment]
    return result
