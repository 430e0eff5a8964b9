"""What a trace earns: pure reward components, and their weighted sum."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import get_args

from actors.messages import ScoredTrace, Side, Trace, Verdict
from actors.verifier.trace import VerdictMode, parse, read_verdict, well_formed

Component = Callable[[Trace, Verdict, Side], float]
"""Trace, its verdict, the better side -> this component's value before weighting."""


class RewardError(ValueError):
    """A reward that cannot be computed: an unknown component, a weight that is no number, a label that is no side."""


def verdict_reward(trace: Trace, verdict: Verdict, label: Side) -> float:
    """+1 where the verdict is the label, -1 otherwise, unreadable verdicts included (RM-R1, arXiv 2505.02387)."""
    return 1.0 if verdict.side == label else -1.0


def format_reward(trace: Trace, verdict: Verdict, label: Side) -> float:
    """1 where the trace is a well-formed chain-of-rubrics judgment, 0 otherwise, whatever its verdict."""
    return 1.0 if well_formed(parse(trace.text)) else 0.0


def components() -> dict[str, Component]:
    """Every reward component by the name that weights use."""
    return {"verdict": verdict_reward, "format": format_reward}


def check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that cannot be used.

    Raises:
        RewardError: no weights, an unknown component (with the nearest match), or a weight that is no finite number.

    """
    known = components()
    if not weights:
        raise RewardError(f"no reward components: give a weight to at least one of {', '.join(known)}")
    for name, weight in weights.items():
        if name not in known:
            match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {match[0]!r}?" if match else f": choose from {', '.join(known)}"
            raise RewardError(f"unknown reward component {name!r}{hint}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise RewardError(f"weight of reward component {name!r} is {weight!r}: it must be a finite number")


def score(
    trace: Trace, label: Side, weights: Mapping[str, float] | None = None, mode: VerdictMode = "paper"
) -> ScoredTrace:
    """Read a trace's verdict and weigh its reward: ``sum(weight * component)``.

    Args:
        trace: what was generated.
        label: the side on which the better response was shown.
        weights: by component name; None is the paper's ``{"verdict": 1.0}``. A component of weight 0 is computed and
            reported in ``parts`` without touching the reward.
        mode: how the verdict is read, see :func:`actors.verifier.trace.read_verdict`.

    Raises:
        RewardError: see :func:`check_weights`; or a label that is neither A nor B, naming the prompt.
        ValueError: an unknown mode.

    """
    weights = {"verdict": 1.0} if weights is None else weights
    check_weights(weights)
    if label not in get_args(Side):
        raise RewardError(f"label of prompt {trace.prompt_uid!r} is {label!r}: it must be 'A' or 'B'")
    verdict = read_verdict(trace.text, mode, truncated=trace.finish_reason == "length")
    known = components()
    parts = {name: known[name](trace, verdict, label) for name in weights}
    reward = math.fsum(weights[name] * part for name, part in parts.items())
    return ScoredTrace(trace=trace, verdict=verdict, reward=reward, parts=parts)
