"""The settings of the objective and of rewards, and which of them make no sense together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from actors.learner.advantages import NEEDS_GROUP, OVER_BATCH
from actors.verifier.rewards import RewardError, check_weights


@dataclass
class Algorithm:
    """The objective; a file in `conf/algorithm/` is a bundle with its paper's values. docs/algorithms.md explains."""

    name: str = "rm_r1"
    samples: int = 7
    """Traces a prompt: the group."""
    temperature: float = 1.0
    top_p: float = 1.0
    advantage: str = "standardised"
    """Within the group `standardised`, `centred` or `leave_one_out`; over all tokens of the batch
    `batch_standardised`, or `centred_batch_standardised` after subtracting the group's mean."""
    loss: str = "clip"
    """`clip` (PPO's surrogate) or `cispo` (clipped weights, no token loses its gradient)."""
    ratio: str = "token"
    """Policy ratio of a `token`, of the whole `sequence`, or its geometric mean, `sequence_mean`."""
    aggregation: str = "token_mean"
    """`token_mean`, `sequence_mean`, or `fixed_length` (sums over traces, divided by `model.max_response_tokens`)."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    """Bound of the ratio where the advantage is negative; 0: none."""
    kl_coefficient: float = 1e-3
    """0: no KL, and no reference policy is loaded."""
    kl_estimator: str = "k3"
    kl_in: str = "loss"
    """`loss`, or `reward`: subtracted before advantages are made."""
    kl_target: float = 0.0
    """Nats a token the coefficient is steered towards; 0: it stays as it is."""
    entropy_coefficient: float = 0.0
    equal_reward_groups: str = "keep"
    """Groups whose rewards are all equal: `keep` (only KL and entropy act on them), `drop` from the loss, or `refill`:
    drop them and generate others."""
    refill_rounds: int = 8
    """Further rounds of generation that `refill` may take; what is missing then stays missing and is counted."""
    old_logprobs: str = "learner"
    """The ratio's denominator: recomputed by the `learner`, or the `rollout` engine's own."""
    correction: str = "none"
    """Weighs tokens by learner's / engine's probability: `none`, `truncate` at the limit, or `mask` outside bounds."""
    correction_level: str = "token"
    """`token`, or `sequence`: the product over the trace."""
    correction_floor: float = 0.5
    correction_limit: float = 2.0
    max_staleness: int = 0
    """Weight versions a rollout batch may lag behind; 0 is strictly on-policy."""
    verdict_mode: str = "paper"
    """How a verdict is read: `strict`, `paper` or `reference`."""
    reward: dict[str, float] = field(default_factory=lambda: {"verdict": 1.0})
    """Reward components and their weights."""
    overlong_buffer: float = 0.2
    """Share of `model.max_response_tokens` over which the `overlong` component falls to -1."""


@dataclass
class Function:
    """A reward function of your own; its weight is `algorithm.reward.<name>`."""

    path: str = ""
    """`package.module.function`, plain or async."""
    sees: str = "trace"
    """`trace`: called with one `Judged`, returns a number; `group`: with all of a prompt, returns a list."""
    deadline: float = 10.0
    """Seconds a call; then its process is killed."""
    memory_gib: float = 2.0
    """What its process may allocate; 0: no limit."""
    processes: int = 1
    """Calls at the same time."""


@dataclass
class Verifier:
    """The reward verifier."""

    functions: dict[str, Function] = field(default_factory=dict)
    """Reward functions of your own, by component name."""
    on_failure: str = "drop_trace"
    """When a reward cannot be computed: `drop_trace`, `drop_group`, or `stop`. It never becomes a reward of 0."""


def objection(algorithm: Algorithm, verifier: Verifier, orders: str) -> str | None:
    """Why these settings cannot work together, and what to change; None where nothing speaks against them.

    Args:
        algorithm: the objective.
        verifier: how rewards are computed.
        orders: `data.orders`.

    """
    for reasons in (_of_sampling(algorithm), _of_loss(algorithm), _of_policies(algorithm), _of_kl(algorithm)):
        if reason := next(reasons, None):
            return reason
    return next(_of_rewards(algorithm, verifier, orders), None)


def _of_sampling(algorithm: Algorithm) -> Iterator[str]:
    if algorithm.samples == 1 and algorithm.advantage in NEEDS_GROUP:
        yield (
            "algorithm.samples=1 leaves nothing to compare a trace with: algorithm.advantage="
            f"{algorithm.advantage} needs at least 2 traces a prompt; or set algorithm.advantage=batch_standardised"
        )
    if algorithm.equal_reward_groups != "keep" and algorithm.advantage in OVER_BATCH[:1]:
        yield (
            f"algorithm.equal_reward_groups={algorithm.equal_reward_groups} would remove groups that teach something: "
            f"algorithm.advantage={algorithm.advantage} compares with the whole batch; set equal_reward_groups=keep"
        )


def _of_loss(algorithm: Algorithm) -> Iterator[str]:
    if algorithm.clip_low > 1:
        yield f"algorithm.clip_low={algorithm.clip_low} puts the ratio's lower bound below 0: 1 is no bound at all"
    if algorithm.dual_clip and algorithm.loss != "clip":
        yield f"algorithm.dual_clip has no part in algorithm.loss={algorithm.loss}: set dual_clip=0, or loss=clip"
    if algorithm.dual_clip and algorithm.dual_clip <= 1 + algorithm.clip_high:
        yield (
            f"algorithm.dual_clip={algorithm.dual_clip} must lie above 1 + clip_high = {1 + algorithm.clip_high:g}, "
            "3 for example, or be 0 for none"
        )
    if algorithm.ratio != "token" and algorithm.aggregation != "sequence_mean":
        yield (
            f"algorithm.ratio={algorithm.ratio} gives a trace one ratio, which algorithm.aggregation="
            f"{algorithm.aggregation} would count by its length: set aggregation=sequence_mean"
        )
    if algorithm.ratio != "token" and algorithm.loss == "cispo":
        yield f"algorithm.loss=cispo bounds the weight of each token: set algorithm.ratio=token, not {algorithm.ratio}"


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
    if algorithm.kl_in == "loss" and algorithm.kl_estimator == "k1":
        yield (
            "algorithm.kl_estimator=k1 in the loss restrains nothing, its gradient has mean 0: set kl_estimator=k2 "
            "(the KL's own gradient) or k3, or algorithm.kl_in=reward"
        )


def _of_rewards(algorithm: Algorithm, verifier: Verifier, orders: str) -> Iterator[str]:
    try:
        check_weights(algorithm.reward, verifier.functions)
    except RewardError as error:
        yield f"algorithm.reward: {error}"
    if not 0 < algorithm.overlong_buffer <= 1:
        yield (
            f"algorithm.overlong_buffer={algorithm.overlong_buffer} must lie in (0, 1]: it is a share of "
            "model.max_response_tokens"
        )
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
        if function.sees not in ("trace", "group"):
            yield f"{key}.sees={function.sees!r} is not one of trace, group"
        if function.deadline <= 0:
            yield f"{key}.deadline={function.deadline} must be above 0 seconds"
        if function.memory_gib < 0:
            yield f"{key}.memory_gib={function.memory_gib} must be at least 0"
        if function.processes < 1:
            yield f"{key}.processes={function.processes} must be at least 1"
