"""One judged comparison: the record that every benchmark is scored from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.messages import FinishReason, Order, Side, Verdict


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

    @property
    def right(self) -> bool:
        """Whether the verdict names the better response. A verdict that could not be read does not."""
        return self.verdict.side == self.label
