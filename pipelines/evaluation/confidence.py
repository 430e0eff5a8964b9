"""How sure a judge was: the log-probability of the token that carries its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.verifier.trace import VerdictMode

_FIRST_WINDOW = 16


def verdict_place(text: str, side: str, mode: VerdictMode) -> int | None:
    """Index of the verdict's letter or rating in ``text``: in the last full answer tag, or `reference` mode's mark."""
    mark = f"[[{side}]]" if mode == "reference" else f"<answer>[[{side}]]</answer>"
    start = text.rfind(mark)
    return None if start < 0 else start + mark.index(f"{side}]]")


def verdict_logprob(
    token_ids: Sequence[int] | np.ndarray,
    logprobs: np.ndarray,
    text: str,
    side: str | None,
    mode: VerdictMode,
    tokenizer: Any,
) -> float | None:
    """The log-probability, one of ``logprobs`` ([L]), of the token whose text holds the verdict's letter.

    None where there is no verdict, or where the tokens' text cannot be lined up with the whole. Looks from the end,
    where verdicts stand, so that a long thought is not decoded again.
    """
    place = None if side is None else verdict_place(text, side, mode)
    if place is None:
        return None
    wanted = len(text) - place
    """Characters from the letter to the end."""
    window = _FIRST_WINDOW

    def tail(start: int) -> str:
        return tokenizer.decode(token_ids[start:], skip_special_tokens=True)

    while window < len(token_ids) and len(tail(len(token_ids) - window)) < wanted:
        window *= 2
    # The last token from which on the text still holds the letter.
    low, high = max(0, len(token_ids) - window), len(token_ids) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(tail(middle)) >= wanted:
            low = middle
        else:
            high = middle - 1
    end = tail(low)
    if len(end) < wanted or not text.endswith(end):
        return None
    return float(logprobs[low])
