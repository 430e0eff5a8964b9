"""The settings of the objective and of rewards, and which of them make no sense together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from actors.learner.choices import (
    ADVANTAGES,
    AGGREGATIONS,
    CORRECTION_LEVELS,
    CORRECTIONS,
    KL_ESTIMATORS,
    LOSSES,
    RATIOS,
    Choice,
)
from actors.verifier.rewards import RewardError, check_weights
from pipelines.config.constraints import number, one_of

Row = TypeVar("Row", bound=Choice)


@dataclass
class Algorithm:
    """The objective; a file in `conf/algorithm/` is a bundle with its paper's values. docs/algorithms.md explains."""

    name: str = "rm_r1"
    samples: int = number(7, at_least=1)
    """Traces per prompt: the group."""
    temperature: float = number(1.0, above=0, at_most=2)
    top_p: float = number(1.0, above=0, at_most=1)
    advantage: str = one_of(*ADVANTAGES)
    """Within the group `standardised`, `centred` or `leave_one_out`; over all tokens of the batch
    `batch_standardised`, or `centred_batch_standardised` after subtracting the group's mean."""
    loss: str = one_of(*LOSSES)
    """The policy loss; formulas are in `actors/learner/objectives.py`."""
    ratio: str = one_of(*RATIOS)
    """Policy ratio of a `token`, of the whole `sequence`, or its geometric mean, `sequence_mean`."""
    aggregation: str = one_of(*AGGREGATIONS)
    """`token_mean`, `sequence_mean`, or `fixed_length` (sums over traces, divided by `model.max_response_tokens`)."""
    clip_low: float = number(0.2, at_least=0, at_most=1)
    clip_high: float = number(0.2, at_least=0)
    dual_clip: float = number(0.0, at_least=0)
    """Bound of the ratio where the advantage is negative; 0: none."""
    kl_coefficient: float = number(1e-3, at_least=0)
    """0: no KL, and no reference policy is loaded."""
    kl_estimator: str = one_of(*KL_ESTIMATORS)
    kl_in: str = one_of("loss", "reward")
    """`loss`, or `reward`: subtracted before advantages are made."""
    kl_target: float = number(0.0, at_least=0)
    """KL, in nats per token, that the coefficient is steered towards; 0: the coefficient stays as it is."""
    entropy_coefficient: float = number(0.0, at_least=0)
    equal_reward_groups: str = one_of("keep", "drop", "refill")
    """Groups whose rewards are all equal: `keep` (only KL and entropy act on them), `drop` from the loss, or `refill`:
    drop them and generate others."""
    refill_rounds: int = number(8, at_least=1)
    """Further rounds of generation that `refill` may take; what is missing then stays missing and is counted."""
    old_logprobs: str = one_of("learner", "rollout")
    """Source of the old log-probabilities, the ratio's denominator: `learner`, which recomputes them, or `rollout`."""
    correction: str = one_of(*CORRECTIONS)
    """Weighs tokens by learner's / engine's probability: `none`, `truncate` at the limit, or `mask` outside bounds."""
    correction_level: str = one_of(*CORRECTION_LEVELS)
    """What that weight is of: the `token`, or the whole `sequence` (the product over its tokens)."""
    correction_floor: float = number(0.5, at_least=0)
    correction_limit: float = number(2.0, at_least=1)
    max_staleness: int = number(0, at_least=0)
    """Weight versions that the oldest token of a trace may lag behind; 0 is strictly on-policy."""
    verdict_mode: str = one_of("paper", "strict", "reference")
    """How a verdict is read: `strict`, `paper` or `reference`."""
    reward: dict[str, float] = field(default_factory=lambda: {"verdict": 1.0})
    """Reward components and their weights."""
    overlong_buffer: float = number(0.2, above=0, at_most=1)
    """Share of `model.max_response_tokens` over which the `overlong` component falls to -1."""


@dataclass
class Function:
    """A reward function of your own; its weight is `algorithm.reward.<name>`."""

    path: str = ""
    """`package.module.function`, plain or async."""
    sees: str = one_of("trace", "group")
    """`trace`: called with one `Judged`, returns a number; `group`: with all of a prompt, returns a list."""
    deadline: float = number(10.0, above=0)
    """Seconds per call; then its process is killed."""
    memory_gib: float = number(2.0, at_least=0)
    """What its process may allocate; 0: no limit."""
    processes: int = number(1, at_least=1)
    """Calls at the same time."""


@dataclass
class Verifier:
    """The reward verifier."""

    functions: dict[str, Function] = field(default_factory=dict)
    """Reward functions of your own, by component name."""
    on_failure: str = one_of("drop_trace", "drop_group", "stop")
    """When a reward cannot be computed: `drop_trace`, `drop_group`, or `stop`. It never becomes a reward of 0."""


def objections(algorithm: Algorithm, verifier: Verifier, orders: str) -> Iterator[str]:
    """Why these settings cannot work together, and what to change.

    Args:
        algorithm: the objective.
        verifier: how rewards are computed.
        orders: `data.orders`.

    """
    yield from _of_sampling(algorithm)
    yield from _of_loss(algorithm)
    yield from _of_policies(algorithm)
    yield from _of_kl(algorithm)
    yield from _of_rewards(algorithm, verifier, orders)


def _names(table: Mapping[str, Row], fits: Callable[[Row], bool]) -> str:
    """The rows that fit, for a remedy."""
    return " or ".join(name for name, row in table.items() if fits(row))


def _of_sampling(algorithm: Algorithm) -> Iterator[str]:
    needs_group = ADVANTAGES[algorithm.advantage].needs_group
    if algorithm.samples == 1 and needs_group:
        others = _names(ADVANTAGES, lambda row: not row.needs_group)
        yield (
            "algorithm.samples=1 leaves nothing to compare a trace with: algorithm.advantage="
            f"{algorithm.advantage} needs at least 2 traces per prompt; or set algorithm.advantage={others}"
        )
    if algorithm.equal_reward_groups != "keep" and not needs_group:
        yield (
            f"algorithm.equal_reward_groups={algorithm.equal_reward_groups} would remove groups that teach something: "
            f"algorithm.advantage={algorithm.advantage} compares with the whole batch; set equal_reward_groups=keep"
        )


def _of_loss(algorithm: Algorithm) -> Iterator[str]:
    loss, ratio = LOSSES[algorithm.loss], RATIOS[algorithm.ratio]
    if algorithm.dual_clip and "dual_clip" not in loss.takes:
        others = _names(LOSSES, lambda row: "dual_clip" in row.takes)
        yield f"algorithm.dual_clip has no part in algorithm.loss={algorithm.loss}: set dual_clip=0, or loss={others}"
    if algorithm.dual_clip and algorithm.dual_clip <= 1 + algorithm.clip_high:
        yield (
            f"algorithm.dual_clip={algorithm.dual_clip} must lie above 1 + clip_high = {1 + algorithm.clip_high:g}, "
            "3 for example, or be 0 for none"
        )
    for key, row in (("ratio", ratio), ("loss", loss)):
        if row.per_trace and not AGGREGATIONS[algorithm.aggregation].equal_traces:
            others = _names(AGGREGATIONS, lambda row: row.equal_traces)
            yield (
                f"algorithm.{key}={getattr(algorithm, key)} gives a trace one ratio, which algorithm.aggregation="
                f"{algorithm.aggregation} would count by its length: set aggregation={others}"
            )
    if loss.bounds_tokens and ratio.per_trace:
        others = _names(RATIOS, lambda row: not row.per_trace)
        yield (
            f"algorithm.loss={algorithm.loss} bounds each token by itself: set algorithm.ratio={others}, "
            f"not {algorithm.ratio}"
        )


def _of_policies(algorithm: Algorithm) -> Iterator[str]:
    if algorithm.correction != "none" and algorithm.old_logprobs == "rollout":
        yield (
            f"algorithm.correction={algorithm.correction} would correct twice: with old_logprobs=rollout the ratio "
            "starts at the engine's policy already; set old_logprobs=learner (decoupled PPO), or correction=none"
        )
    if algorithm.correction_floor > 1:
        yield f"algorithm.correction_floor={algorithm.correction_floor} would mask equal policies: choose at most 1"
    if algorithm.max_staleness and algorithm.old_logprobs == "learner" and algorithm.correction == "none":
        yield (
            f"algorithm.max_staleness={algorithm.max_staleness} trains on traces of older weights and nothing corrects "
            "for it: set algorithm.old_logprobs=rollout, so that the ratio does, or algorithm.correction=truncate"
        )


def _of_kl(algorithm: Algorithm) -> Iterator[str]:
    if not algorithm.kl_coefficient:
        if algorithm.kl_target:
            yield (
                f"algorithm.kl_target={algorithm.kl_target} steers a coefficient of 0, which stays 0: "
                "set algorithm.kl_coefficient, 1e-3 for example"
            )
        return
    if algorithm.kl_in == "loss" and not KL_ESTIMATORS[algorithm.kl_estimator].restrains:
        others = _names(KL_ESTIMATORS, lambda row: row.restrains)
        yield (
            f"algorithm.kl_estimator={algorithm.kl_estimator} in the loss restrains nothing, its gradient has mean 0: "
            f"set kl_estimator={others}, or algorithm.kl_in=reward"
        )


def _of_rewards(algorithm: Algorithm, verifier: Verifier, orders: str) -> Iterator[str]:
    try:
        check_weights(algorithm.reward, verifier.functions)
    except RewardError as error:
        yield f"algorithm.reward: {error}"
    if "swap_consistency" in algorithm.reward and orders != "both":
        yield (
            f"the reward component swap_consistency compares both orders of a pair: set data.orders=both, not {orders}"
        )
    if "length" in algorithm.reward and algorithm.samples == 1:
        yield "the reward component length compares the traces of a prompt: set algorithm.samples to at least 2"
    for name, function in verifier.functions.items():
        key = f"verifier.functions.{name}"
        if "." not in function.path:
            yield f"{key}.path={function.path!r} must be package.module.function"
