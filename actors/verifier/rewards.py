"""What a trace earns: pure reward components, and their weighted sum.

Components of a trace are known as soon as it is written; those of a group compare the traces of a prompt; those of a
pair compare both orders of it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actors.errors import UserError
from actors.messages import JudgeMode, Prompt, RewardFailure, ScoredGroup, ScoredTrace, Side, Trace, Verdict
from actors.verifier.trace import LETTERS, VerdictMode, parse, read_verdict, well_formed


class RewardError(UserError, ValueError):
    """A reward that cannot be computed: an unknown component, a weight that is no number, a label that is no side."""


@dataclass(frozen=True, slots=True)
class RewardRule:
    """What is rewarded, the same for a whole run."""

    weights: Mapping[str, float] = field(default_factory=lambda: {"verdict": 1.0})
    """By component. One of weight 0 is computed and reported without touching the reward."""
    mode: VerdictMode = "paper"
    """How a verdict is read."""
    max_tokens: int = 8192
    """Limit of a judgment."""
    overlong_buffer: float = 0.2
    """Share of `max_tokens`, at its end, over which the overlong penalty grows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a trace was to decide."""

    label: Side
    """The side of the better response."""
    judged: JudgeMode = "pairwise"
    responses: int = 2


TraceComponent = Callable[[Trace, Verdict, Asked, RewardRule], float]
"""Trace, its verdict, what was asked, the rule -> this component's value before weighting."""


def verdict_reward(trace: Trace, verdict: Verdict, asked: Asked, rule: RewardRule) -> float:
    """+1 where the verdict is the label, -1 otherwise, unreadable verdicts included (RM-R1, arXiv 2505.02387).

    Of an order: 2 x the share of the other responses that stand below the better one - 1, which is the same for two.
    """
    if verdict.ranking is None:
        return 1.0 if verdict.side == asked.label else -1.0
    above = verdict.ranking.index(asked.label)
    return 1.0 - 2.0 * above / (len(verdict.ranking) - 1)


def format_reward(trace: Trace, verdict: Verdict, asked: Asked, rule: RewardRule) -> float:
    """1 where the trace is a well-formed chain-of-rubrics judgment, 0 otherwise, whatever its verdict."""
    return 1.0 if well_formed(parse(trace.text, asked.judged, asked.responses)) else 0.0


def overlong_reward(trace: Trace, verdict: Verdict, asked: Asked, rule: RewardRule) -> float:
    """0 up to the buffer before the length limit, falling to -1 at the limit; -1 for a trace cut there.

    DAPO's soft overlong punishment, arXiv 2503.14476, equation 13; the buffer is a fifth of the limit there.
    """
    if trace.finish_reason == "length":
        return -1.0
    buffer = rule.overlong_buffer * rule.max_tokens
    return -min(1.0, max(0.0, (len(trace.token_ids) - (rule.max_tokens - buffer)) / buffer))


def length_rewards(traces: Sequence[ScoredTrace], label: Side) -> list[float]:
    """Shorter than the others of the group is better, and no reward for short wrong ones.

    1/2 - (length - shortest) / (longest - shortest) for a right verdict, at most 0 of that for a wrong one: Kimi k1.5,
    arXiv 2501.12599, section 2.3.3. Zeros where all are equally long.
    """
    lengths = np.array([len(item.trace.token_ids) for item in traces], dtype=np.float64)
    if not len(lengths) or np.ptp(lengths) == 0:
        return [0.0] * len(lengths)
    values = 0.5 - (lengths - lengths.min()) / np.ptp(lengths)
    return [
        float(value if item.verdict.side == label else min(0.0, value))
        for value, item in zip(values, traces, strict=True)
    ]


def swap_consistency_rewards(group: ScoredGroup, other: ScoredGroup) -> list[float]:
    """+1 for a right verdict where that of the other order is right, too, -1 otherwise; ``other`` is the other order.

    The consistency reward of J1 (arXiv 2505.10320), in expectation over which trace of the other order a trace is
    matched with: 2 x share of right ones there - 1 for a right verdict, -1 for a wrong one.
    """
    share = float(np.mean([item.verdict.side == other.prompt.label for item in other.traces]))
    return [2.0 * share - 1.0 if item.verdict.side == group.prompt.label else -1.0 for item in group.traces]


def order_agreement_rewards(group: ScoredGroup, other: ScoredGroup) -> list[float]:
    """How well ratings agree with the pair's order: ``group`` rates one of its responses, ``other`` the other one.

    In expectation over which trace of the other response a trace is matched with: 2 x the share of those that it is
    rated above (of the worse response: below) - 1. Equal ratings do not agree; a rating that could not be read counts
    half there, and earns -1 itself.
    """
    up = 1 if group.prompt.label == "A" else -1
    others = [item.verdict.rating for item in other.traces]

    def value(rating: int | None) -> float:
        if rating is None:
            return -1.0
        return 2.0 * float(np.mean([0.5 if it is None else up * rating > up * it for it in others])) - 1.0

    return [value(item.verdict.rating) for item in group.traces]


def is_right(item: ScoredTrace, prompt: Prompt) -> bool:
    """Whether a trace names the better response; of a rating, whether it mostly agrees with the pair's order."""
    if prompt.judged == "pointwise":
        return item.parts.get("verdict", -1.0) > 0
    return item.verdict.side == prompt.label


_OF_TRACE: Mapping[str, TraceComponent] = {
    "verdict": verdict_reward,
    "format": format_reward,
    "overlong": overlong_reward,
}
_OF_GROUP = ("length", "swap_consistency")


def components() -> tuple[str, ...]:
    """Every built-in reward component by the name that weights use."""
    return (*_OF_TRACE, *_OF_GROUP)


def compares_traces(weights: Mapping[str, float]) -> bool:
    """Whether a built-in component needs more than one trace."""
    return any(name in weights for name in _OF_GROUP)


def check_weights(weights: Mapping[str, float], functions: Iterable[str] = ()) -> None:
    """Refuse weights that cannot be used; ``functions`` are the names of the user's own components.

    Raises:
        RewardError: no weights, an unknown component (with the nearest match), a weight that is no finite number, or a
            function that has a built-in component's name or no weight.

    """
    functions = tuple(functions)
    known = (*components(), *functions)
    for name in functions:
        if name in components():
            raise RewardError(f"reward function {name!r} has the name of a built-in component: choose another")
        if name not in weights:
            raise RewardError(f"reward function {name!r} has no weight: set algorithm.reward.{name}, 0 to only log it")
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
    trace: Trace, label: Side, rule: RewardRule, judged: JudgeMode = "pairwise", responses: int = 2
) -> ScoredTrace:
    """Read a trace's verdict and compute the components that need nothing but the trace.

    The verdict of a rating needs the ratings of the other response: :func:`with_group_components` adds it.

    Args:
        trace: what was generated.
        label: the side on which the better response was shown.
        rule: what is rewarded.
        judged: what the prompt asked for.
        responses: how many it showed.

    Raises:
        RewardError: a label that is no side of the prompt, naming the prompt.
        ValueError: an unknown mode.

    """
    if label not in LETTERS[: max(2, responses)]:
        sides = "' or '".join(LETTERS[: max(2, responses)])
        raise RewardError(f"label of prompt {trace.prompt_uid!r} is {label!r}: it must be '{sides}'")
    truncated = trace.finish_reason == "length"
    verdict = read_verdict(trace.text, rule.mode, truncated=truncated, judged=judged, responses=responses)
    named = [name for name in rule.weights if name in _OF_TRACE and (name != "verdict" or judged != "pointwise")]
    asked = Asked(label, judged, responses)
    parts = {name: _OF_TRACE[name](trace, verdict, asked, rule) for name in named}
    return weighed(ScoredTrace(trace, verdict, 0.0), parts, rule)


def weighed(scored: ScoredTrace, parts: Mapping[str, float], rule: RewardRule) -> ScoredTrace:
    """The trace with ``parts`` added to those it has, and the reward of all: ``sum(weight * component)``."""
    together = {**scored.parts, **parts}
    return replace(
        scored, parts=together, reward=math.fsum(rule.weights[name] * part for name, part in together.items())
    )


def with_group_components(groups: Sequence[ScoredGroup], rule: RewardRule) -> list[ScoredGroup]:
    """All prompts of one pair, with the components added that compare traces.

    Where the other order of a group has no trace to compare with, the group's traces fail with cause ``no_partner``.
    """
    return [_with_group_components(group, [other for other in groups if other is not group], rule) for group in groups]


def _with_group_components(group: ScoredGroup, others: Sequence[ScoredGroup], rule: RewardRule) -> ScoredGroup:
    columns: dict[str, list[float]] = {}
    if "verdict" in rule.weights and group.prompt.judged == "pointwise":
        if not others or not others[0].traces:
            return failed(group, "verdict", "no_partner", "the other response of the pair has no trace")
        columns["verdict"] = order_agreement_rewards(group, others[0])
    if "length" in rule.weights:
        columns["length"] = length_rewards(group.traces, group.prompt.label)
    if "swap_consistency" in rule.weights:
        if not others or not others[0].traces:
            return failed(group, "swap_consistency", "no_partner", "the other order of the pair has no trace")
        columns["swap_consistency"] = swap_consistency_rewards(group, others[0])
    return with_columns(group, columns, rule)


def with_columns(group: ScoredGroup, columns: Mapping[str, Sequence[float]], rule: RewardRule) -> ScoredGroup:
    """The group with components added: ``columns`` has one value per trace under each name."""
    traces = tuple(
        weighed(item, {name: values[index] for name, values in columns.items()}, rule)
        for index, item in enumerate(group.traces)
    )
    return replace(group, traces=traces)


def failed(group: ScoredGroup, component: str, cause: str, detail: str) -> ScoredGroup:
    """The group with every trace turned into a failure."""
    unscored = tuple(
        RewardFailure(group.prompt.uid, item.trace.sample, component, cause, detail) for item in group.traces
    )
    return replace(group, traces=(), unscored=(*group.unscored, *unscored))
