"""What a recipe takes in memory and on disk, and the first limit that it runs into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipelines.config import Config
from pipelines.job.settings import roles, shares_devices
from pipelines.planning.engine import EngineMemory, engine_memory
from pipelines.planning.learner import (
    BYTES,
    GIB,
    MASTER,
    LearnerMemory,
    learner_memory,
    optimizer_bytes,
    trained_parameters,
)
from pipelines.planning.nodes import Node, place
from pipelines.planning.recipe import Machine, chains, engine_load, learner_load, stages, training_pairs
from pipelines.planning.shape import ModelShape, refuse_unsplittable

# Of a process without its data, in bytes, as seen here: imports and libraries; on CPU an engine's compiled parts too.
_DRIVER, _LEARNER, _ENGINE = 0.6 * GIB, 0.7 * GIB, 1.5 * GIB
# CUDA: pinned memory and the driver's mappings of a process.
_CUDA_HOST = 2.0 * GIB
# CUDA: what a rank's device holds besides tensors: context, NCCL, and what the allocator cannot use.
_RESERVE = 3.0 * GIB
# What a rank gathers at a time to publish it, as a copy of its own and as what it received.
_GATHERED = 2 * 0.5 * GIB
# Of the training state of each rank: the older is kept until the newer is whole.
_COPIES = 2
# Tokens of a prompt and of a chain; tokens, log-probabilities, versions and text of a trace.
_PROMPT_TOKEN, _TRACE_TOKEN, _CHAIN_TOKEN = 4, 24, 4


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that is too small."""

    what: str
    needs: float
    """GiB, tokens or devices, as ``unit`` says."""
    has: float
    unit: str
    setting: str
    """What to change."""

    def __str__(self) -> str:
        shown = "{:,.1f}" if self.unit == "GiB" else "{:,.0f}"
        needs, has = shown.format(self.needs), shown.format(self.has)
        return f"{self.what}: {needs} {self.unit} needed, {has} there; {self.setting}"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of everything."""

    learner: LearnerMemory
    """Of the stage that takes most."""
    engine: EngineMemory
    driver: float
    node: float
    """The machine's memory on the node that takes most."""
    copies: float
    """Of the learners' state, on the node that has most of them; none are made where there is no room."""
    publish: float
    checkpoint: float
    disk: float
    nodes: list[Node]
    turns: dict[str, float]
    """On a device that an engine and a rank have in turn: ``generate``, ``learn``, ``publish``; empty where they have
    devices of their own."""
    moved: float
    """Between a device's memory and the machine's in a step of RL, where an engine and a rank have it in turn: what
    each keeps leaves the device and comes back."""


def budget(config: Config, shape: ModelShape, training: tuple[str, ...] | None = None) -> Budget:
    """What a recipe takes, or some of its stages; none of them: only to judge.

    Raises:
        ShapeError: the model's layers cannot be split over ``rollout.tensor_parallel`` devices.

    """
    training = stages(config) if training is None else training
    refuse_unsplittable(
        shape, config.rollout.tensor_parallel, config.rl.policy or config.model.path or "the tiny model"
    )
    learners = [learner_memory(shape, learner_load(config, stage)) for stage in training or ("distill",)]
    learner = max(learners, key=lambda memory: memory.peak)
    engine = engine_memory(shape, engine_load(config))
    nodes = place(roles(config), config.cluster.gpus_per_node)
    publish = float(BYTES[config.rollout.dtype] * shape.parameters)
    driver = _driver(config)
    shared = shares_devices(config) and config.cluster.device == "cuda" and bool(training)
    # An engine's weights, and what a rank keeps, are in the machine's memory in turn, in room that stays.
    parked = max(memory.between for memory in learners) if shared else 0.0
    host = max(memory.host for memory in learners) + parked + (engine.parts["weights"] if shared else 0.0)
    checkpoint, disk = _disk(config, shape, training)
    sections = [config.rl if stage == "rl" else config.distill for stage in training]
    in_background = any(section.checkpoints.in_background for section in sections)
    copied = checkpoint / config.learner.ranks if in_background else 0.0
    taken = [
        _on_node(config, node, learner.peak, engine.total, host, publish, copied, bool(training))
        + (driver if index == 0 else 0.0)
        for index, node in enumerate(nodes)
    ]
    turns = _turns(learner, engine, parked) if shared else {}
    moved = 2 * (parked + engine.parts["weights"]) if shared else 0.0
    copies = 0.0
    if training and config.learner.peer_copy and not shares_devices(config):
        copies = _COPIES * checkpoint * max(node.count("learner") for node in nodes) / config.learner.ranks
        if config.learner.copies_on_other_nodes and sum(bool(node.count("learner")) for node in nodes) > 1:
            copies *= 2  # Those of as many ranks of other nodes.
    return Budget(learner, engine, driver, max(taken), copies, publish, checkpoint, disk, nodes, turns, moved)


def _turns(learner: LearnerMemory, engine: EngineMemory, kept: float) -> dict[str, float]:
    """A device in each turn: what has it, and what stays there of the other."""
    both = _RESERVE + engine.asleep
    return {
        "generate": engine.total + _RESERVE,
        "learn": learner.peak + both,
        "publish": kept + _GATHERED + engine.parts["weights"] + both,
    }


def _on_node(
    config: Config, node: Node, learner: float, engine: float, host: float, publish: float, copied: float, trains: bool
) -> float:
    """The machine's memory that a node's actors take. Rank 0 holds the whole weights while it publishes and exports;
    each rank a copy of its part of a checkpoint while it is written."""
    processes = node.count("rollout") * config.rollout.tensor_parallel
    ranks = node.count("learner") if trains else 0
    whole = publish if trains and ("learner", 0) in node.members else 0.0
    if config.cluster.weight_transfer == "file":
        whole *= 2
    if config.cluster.device == "cpu":
        return processes * (_ENGINE + engine) + ranks * (_LEARNER + learner + copied) + whole
    return (processes + ranks) * _CUDA_HOST + ranks * (host + copied) + whole


def _driver(config: Config) -> float:
    plan, model, algorithm = config.plan, config.model, config.algorithm
    prompts = (training_pairs(config) or 0) * (2 if config.data.orders == "both" else 1)
    traces = (1 + algorithm.max_staleness) * config.rl.prompts_per_step * algorithm.samples
    return (
        _DRIVER
        + _PROMPT_TOKEN * prompts * plan.prompt_share * model.max_prompt_tokens
        + _TRACE_TOKEN * traces * plan.response_share * model.max_response_tokens
        + _CHAIN_TOKEN * (chains(config) or 0) * plan.chain_share * config.distill.max_tokens
    )


def _disk(config: Config, shape: ModelShape, training: tuple[str, ...]) -> tuple[float, float]:
    """Bytes of a checkpoint of the largest stage, and of all that is on the disk at most: checkpoints that are kept,
    one that is being written, and a model that each stage exports."""
    trained = trained_parameters(shape, config.learner.lora.rank, config.learner.lora.targets)
    sizes, total, writing = [0.0], 0.0, 0.0
    for stage in training:
        section = config.rl if stage == "rl" else config.distill
        size = MASTER * trained + optimizer_bytes(shape, section.optimizer.name, trained)
        kept = section.checkpoints.keep_last + bool(section.evaluate_every)
        sizes.append(size)
        writing = max(writing, size)
        total += kept * size + BYTES[config.rollout.dtype] * shape.parameters
    return max(sizes), total + writing


def limits(config: Config, shape: ModelShape, budget: Budget, machine: Machine) -> Iterator[Limit]:
    """What is too small, the first that is hit first: devices, a rank, an engine, its cache, the machine, the disk."""
    cluster, cuda = config.cluster, config.cluster.device == "cuda"
    largest = max(node.gpus for node in budget.nodes)
    if cuda and largest > cluster.gpus_per_node:
        remedy = (
            "set cluster.weight_transfer=network"
            if config.rollout.tensor_parallel <= cluster.gpus_per_node
            else "lower rollout.tensor_parallel"
        )
        yield Limit("devices of a node", largest, cluster.gpus_per_node, "devices", remedy)
    room = cluster.gpu_gib * GIB - _RESERVE - (budget.engine.asleep if budget.turns else 0.0)
    if cuda and budget.learner.peak > room:
        remedy = _less_learner(config, shape, room)
        yield Limit("GPU memory of a learner rank", budget.learner.peak / GIB, room / GIB, "GiB", remedy)
    for turn, remedy in (("generate", "lower rollout.memory_fraction"), ("publish", "set learner.offload=all")):
        if (needs := budget.turns.get(turn, 0.0) / GIB) > cluster.gpu_gib:
            yield Limit(f"GPU memory while engines and learners {turn}", needs, cluster.gpu_gib, "GiB", remedy)
    engine = budget.engine
    if engine.parts["cache"] < 0:
        needs, has = engine.total - engine.parts["cache"], config.rollout.memory_fraction * cluster.gpu_gib
        yield Limit("GPU memory of an engine", needs / GIB, has, "GiB", "raise rollout.tensor_parallel")
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    if not engine.sequences_at_full_length:
        setting = "rollout.tensor_parallel or rollout.memory_fraction" if cuda else "rollout.memory_gib"
        remedy = f"raise {setting}, or lower model.max_response_tokens"
        yield Limit("KV cache of an engine for one full sequence", longest, engine.kv_tokens, "tokens", remedy)
    if machine.memory is not None and budget.node > machine.memory:
        yield Limit("host memory", budget.node / GIB, machine.memory / GIB, "GiB", _less_host(config))
    if cluster.weight_transfer == "file" and machine.weights is not None and budget.publish > machine.weights:
        remedy = (
            f"enlarge {cluster.weights_directory}, set cluster.weights_directory to another folder, or "
            "cluster.weight_transfer=network"
        )
        yield Limit("shared memory for published weights", budget.publish / GIB, machine.weights / GIB, "GiB", remedy)
    if machine.disk is not None and budget.disk > machine.disk:
        remedy = "lower rl.checkpoints.keep_last and distill.checkpoints.keep_last, or set output_root to another disk"
        yield Limit("disk for checkpoints and models", budget.disk / GIB, machine.disk / GIB, "GiB", remedy)


def _less_learner(config: Config, shape: ModelShape, room: float) -> str:
    """The setting that makes a rank fit and costs least time; where no one alone does, those that help."""
    for name in ("activation_checkpointing", "reshard_after_forward"):
        if not getattr(config.learner, name):
            return f"set learner.{name}=true"
    if config.cluster.share_devices:
        return "set cluster.share_devices=false, or learner.offload=all, or lower learner.micro_batch_tokens"
    loads = [learner_load(config, stage) for stage in stages(config)]
    for times in (2, 4, 8, 16):
        ranks = times * config.learner.ranks
        if all(learner_memory(shape, replace(load, ranks=ranks)).peak <= room for load in loads):
            return f"set learner.ranks={ranks}, or learner.offload=all, or lower learner.micro_batch_tokens"
    return "set learner.offload=all, and lower learner.micro_batch_tokens"


def _less_host(config: Config) -> str:
    if config.cluster.device == "cuda":
        return "lower what one node holds (learner.offload, rollout.workers), or raise cluster.node_gib if it has more"
    return "lower rollout.memory_gib, rollout.workers or learner.micro_batch_tokens, or choose a smaller model"
