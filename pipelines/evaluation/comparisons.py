"""One judged comparison: the record that every benchmark is scored from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.messages import FinishReason, JudgeMode, Order, Side, Verdict


@dataclass(frozen=True, slots=True)
class JudgedComparison:
    """What the judge wrote about one pair in one order, and what was read from it."""

    pair_id: str
    order: Order
    label: Side
    """The side on which the better response was shown: A when the chosen response came first."""
    domain: str
    verdict: Verdict
    tokens: int
    """Generated tokens, the end-of-sequence token included."""
    finish_reason: FinishReason
    text: str
    extras: Mapping[str, bool | None] = field(default_factory=dict)
    """Further yes-or-no observations by name, None where one does not apply: ``solution_correct``,
    ``true_first_rubric``."""
    vote: int = 0
    """Which of several judgments of the same pair and order."""
    unit: str | None = None
    """Comparisons of one unit (a prompt with several pairs) are not independent; None: the pair is a unit."""
    mode: JudgeMode = "pairwise"
    better_shorter: bool | None = None
    """Whether the better response has fewer characters than the other one; None where both are as long."""

    @property
    def right(self) -> bool:
        """Whether the verdict names the better response. A verdict that could not be read does not."""
        return self.verdict.side == self.label
