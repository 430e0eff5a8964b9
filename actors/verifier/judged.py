"""What a user's reward function sees. Standard library only: it is imported in the function's own process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """One trace, its verdict and what it was to judge."""

    text: str
    """The whole judgment as generated."""
    verdict: str | None
    """`A`, `B` (of a list also `C`, `D`), or None where none could be read, and of a rating."""
    label: str
    """The side on which the better response is shown."""
    question: str
    response_a: str
    response_b: str
    tokens: int
    truncated: bool
    """Cut at the length limit."""
    prompt_uid: str
    pair_id: str
    order: str
    """`chosen_first` or `chosen_second`."""
    domain: str
    sample: int
    """Index within the group of traces."""
    mode: str = "pairwise"
    """`pairwise`, `pointwise` (``response_a`` is rated, ``response_b`` empty), or `listwise` (``response_b`` holds all
    but the first)."""
    rating: int | None = None
