"""A plan as plain data: JSON for programs, and rows of a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.config import Config
from pipelines.planning.budget import Budget, budget, limits
from pipelines.planning.learner import BYTES, GIB
from pipelines.planning.recipe import chains, machine, stages, training_pairs
from pipelines.planning.shape import ModelShape
from pipelines.planning.work import StageWork, cpu_engine_rate, engine_rate, learning_seconds

# Learners' operations per second where none are stated, in 10^12: 35% of an H100's dense bfloat16 peak; one CPU thread.
_TFLOPS = {"cuda": 350.0, "cpu": 0.1}


def plan_of(config: Config, shape: ModelShape) -> dict[str, Any]:
    """Everything ``make plan`` says, as JSON data. Sizes are in GiB; None where data of unknown size decides.

    Raises:
        ShapeError: see :func:`pipelines.planning.budget.budget`.

    """
    found = budget(config, shape)
    limit = next(limits(config, shape, found, machine(config)), None)
    work = {stage: _work(config, shape, found, stage) for stage in stages(config)}
    known = [done for done in work.values() if done is not None]
    complete = len(known) == len(work)
    gpus = sum(node.gpus for node in found.nodes)
    hours = sum(done.seconds for done in known) / 3600 if complete else None
    rl = work["rl"]
    return {
        "recipe": config.recipe_name,
        "parameters": shape.parameters,
        "learner_peak_gib": _gib(found.learner.peak),
        "learner_parts": {name: _gib(size) for name, size in found.learner.parts.items()},
        "learner_peak_at": found.learner.moment,
        "learner_host_gib": _gib(found.learner.host),
        "engine_gib": _gib(found.engine.total),
        "engine_parts": {name: _gib(size) for name, size in found.engine.parts.items()},
        "kv_tokens": found.engine.kv_tokens,
        "sequences_at_full_length": found.engine.sequences_at_full_length,
        "sequences_at_mean_length": int(found.engine.kv_tokens / _mean_length(config)),
        "turns_gib": {name: _gib(size) for name, size in found.turns.items()} or None,
        "turn_seconds": round(_turn_seconds(config, found), 2),
        "driver_gib": _gib(found.driver),
        "node_gib": _gib(found.node),
        "copies_gib": _gib(found.copies),
        "publish_gib": _gib(found.publish),
        "publish_seconds": round(found.publish / (config.plan.link * 1e9), 2),
        "checkpoint_gib": _gib(found.checkpoint),
        "disk_gib": _gib(found.disk),
        "steps": rl.steps if rl else None,
        "tokens": round(sum(done.tokens for done in known)) if complete else None,
        "hours": _rounded(hours),
        "gpu_hours": _rounded(None if hours is None else hours * gpus),
        "price": _rounded(None if hours is None else hours * gpus * config.plan.gpu_price),
        "stages": {stage: asdict(done) if done else None for stage, done in work.items()},
        "placement": [
            {"node": index, "gpus": node.gpus, "actors": [f"{role} {member}" for role, member in node.members]}
            for index, node in enumerate(found.nodes)
        ],
        "first_limit": {**asdict(limit), "message": str(limit)} if limit else None,
    }


def _gib(size: float) -> float:
    return round(size / GIB, 4)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _mean_length(config: Config) -> float:
    """Tokens of a prompt and its trace."""
    plan, model = config.plan, config.model
    return plan.prompt_share * model.max_prompt_tokens + plan.response_share * model.max_response_tokens


def _work(config: Config, shape: ModelShape, found: Budget, stage: str) -> StageWork | None:
    """A stage's steps, tokens and time; None where the size of its data is not known. Without evaluations."""
    plan, learner = config.plan, config.learner
    tflops = plan.learner_tflops or _TFLOPS[config.cluster.device]

    def learning(tokens: float, passes: int) -> float:
        return learning_seconds(shape, tokens, learner.ranks, tflops, passes, learner.activation_checkpointing)

    if stage == "distill":
        rows = chains(config)
        if rows is None:
            return None
        tokens = rows * config.distill.epochs * plan.chain_share * config.distill.max_tokens
        return StageWork(
            math.ceil(rows * config.distill.epochs / config.distill.batch_size), tokens, learning(tokens, 0)
        )
    rl, algorithm, pairs = config.rl, config.algorithm, training_pairs(config)
    if pairs is None and not rl.steps:
        return None
    orders = 2 if config.data.orders == "both" else 1
    steps = math.ceil((pairs or 0) * orders * rl.epochs / rl.prompts_per_step)
    steps = min(steps, rl.steps) if rl.steps and pairs is not None else rl.steps or steps
    traces = rl.prompts_per_step * algorithm.samples
    # Besides training: old log-probabilities where a batch is several mini-batches, and the reference's.
    passes = (rl.prompts_per_step > rl.mini_batch_prompts) + (algorithm.kl_coefficient > 0)
    learn = learning(traces * _mean_length(config), passes)
    written = traces * plan.response_share * config.model.max_response_tokens
    generate = written / (config.rollout.workers * _engine_rate(config, shape, found))
    together = max(generate, learn) if algorithm.max_staleness else generate + learn
    seconds = steps * (together + found.publish / (plan.link * 1e9) + _turn_seconds(config, found))
    return StageWork(steps, steps * traces * _mean_length(config), seconds)


def _turn_seconds(config: Config, found: Budget) -> float:
    """Of a step: for what leaves devices that are had in turn, and comes back."""
    return found.moved / (config.plan.host_link * 1e9)


def _engine_rate(config: Config, shape: ModelShape, found: Budget) -> float:
    plan, rollout = config.plan, config.rollout
    if plan.engine_tokens_per_second:
        return plan.engine_tokens_per_second
    if config.cluster.device == "cpu":
        return cpu_engine_rate(shape)
    mean = _mean_length(config)
    sequences = max(1.0, min(rollout.max_sequences, found.engine.kv_tokens / mean))
    return engine_rate(shape, BYTES[rollout.dtype], rollout.tensor_parallel, plan.gpu_bandwidth, sequences, mean)


def table_of(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The plan as rows: what, how much, and what it is made of."""

    def parts(values: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {_short(value)}" for name, value in values.items() if abs(value) >= 5e-5)

    def stage(name: str, work: Mapping[str, Any] | None) -> tuple[str, str, str]:
        if work is None:
            return (name, "unknown", "state plan.pairs and plan.chains: the size of the data is not known here")
        return (name, f"{work['steps']:,} steps", f"{work['tokens']:,.0f} tokens, {work['seconds'] / 3600:,.2f} hours")

    turns = plan["turns_gib"]
    in_turn = []
    if turns:
        moving = f"{parts(turns)}; {plan['turn_seconds']:,} s per step to move"
        in_turn = [("device in turn", f"{_short(max(turns.values()))} GiB", moving)]
    cost = "unknown" if plan["gpu_hours"] is None else f"{plan['gpu_hours']:,.1f} GPU hours"
    price = f"price {plan['price']:,.0f}" if plan["price"] else ""
    rows = [
        ("model", f"{plan['parameters'] / 1e6:,.1f} million", "parameters"),
        ("learner rank", f"{_short(plan['learner_peak_gib'])} GiB", parts(plan["learner_parts"])),
        ("engine process", f"{_short(plan['engine_gib'])} GiB", parts(plan["engine_parts"])),
        (
            "KV cache",
            f"{plan['kv_tokens']:,} tokens",
            f"{plan['sequences_at_full_length']:,} sequences per engine at full length, "
            f"{plan['sequences_at_mean_length']:,} at the mean",
        ),
        *in_turn,
        ("driver", f"{_short(plan['driver_gib'])} GiB", f"fullest node {_short(plan['node_gib'])} GiB of host memory"),
        ("copies in memory", f"{_short(plan['copies_gib'])} GiB", "of the learners' state, on a node that has room"),
        ("publish", f"{_short(plan['publish_gib'])} GiB", f"{plan['publish_seconds']:,} s per step"),
        ("disk", f"{_short(plan['disk_gib'])} GiB", f"checkpoints of {_short(plan['checkpoint_gib'])} GiB each"),
        *(stage(name, work) for name, work in plan["stages"].items()),
        ("cost", cost, price),
    ]
    rows += [
        (f"node {node['node']}", f"{node['gpus']:g} GPUs", ", ".join(node["actors"])) for node in plan["placement"]
    ]
    return rows


def _short(gib: float) -> str:
    return f"{gib:,.1f}" if abs(gib) >= 10 else f"{gib:,.2f}" if abs(gib) >= 1 else f"{gib:,.3g}"
