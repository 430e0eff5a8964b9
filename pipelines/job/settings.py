"""From the configuration to what actors are told: the one place where settings become actors' records."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import cast

from actors.learner.choices import ATTENTIONS
from actors.learner.settings import LearnerSettings, LoraSettings, OptimizerSettings, PolicySettings
from actors.placement import Role
from actors.rollout.settings import EngineSettings
from actors.turns import Together, Turns
from actors.verifier.functions import RewardFunction
from actors.verifier.rewards import RewardRule
from actors.verifier.trace import VerdictMode
from pipelines.config import Algorithm, Config, Optimizer

# Directories that every machine has for itself.
_NODE_LOCAL = ("/dev/shm", "/run", "/tmp", "/var/tmp")


# What an actor's process needs of the driver's environment; set per actor, because Ray's own workers start before.
_PASSED_ON = re.compile(r"HF_HUB_OFFLINE|HF_HOME|HF_TOKEN|CUDA_DEVICE_MAX_CONNECTIONS|(NCCL|GLOO|TORCH|VLLM)_\w+")
# Of one process or one node: an engine decides them for itself.
_NOT_PASSED_ON = re.compile(r"VLLM_(HOST_IP|LOOPBACK_IP|PORT|RPC_BASE_PATH|DP_\w+)")


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The driver's variables that every actor gets."""
    return {
        name: value
        for name, value in environment.items()
        if _PASSED_ON.fullmatch(name) and not _NOT_PASSED_ON.fullmatch(name)
    }


def allocator(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """What a learner's CUDA allocator is told: segments that grow, so that rows of other lengths leave no gaps.

    The user's own setting stays. Engines are not told: vLLM's sleep needs a pool of its own.
    """
    if config.cluster.device != "cuda":
        return {}
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    own = {name: environment[name] for name in names if name in environment}
    return own or {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def actors_environment(threads: int = 0) -> dict[str, str]:
    """The variables an actor starts with; ``threads`` are OpenMP's, 0: as many as it likes."""
    environment = passed_on(os.environ) | {"TOKENIZERS_PARALLELISM": "false"}
    return environment | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def replica_role(config: Config) -> Role:
    """Replicas of a server, with an engine each."""
    devices = config.rollout.tensor_parallel if config.cluster.device == "cuda" else 0
    remedy = "lower serve.replicas or cluster.rollout_cpus"
    return Role("replica", config.serve.replicas, config.cluster.rollout_cpus, devices, remedy)


def shares_devices(config: Config) -> bool:
    """Whether engines and learners take turns on the same devices."""
    return config.cluster.share_devices and config.learner.ranks > 0


def turns(config: Config, hurried: Callable[[], bool]) -> Together:
    """Who has the devices when; see :class:`actors.turns.Turns`."""
    return Turns(config.cluster.step_timeout, hurried) if shares_devices(config) else Together()


def roles(config: Config) -> tuple[Role, ...]:
    """Actors of a job and what they take; the only place that knows how many devices each of them needs."""
    shared = shares_devices(config)
    # Of a device that two share, each takes a half.
    cluster, devices = config.cluster, (0.5 if shared else 1) if config.cluster.device == "cuda" else 0
    together = passes_weights_in_memory(config)
    spread = ", or set cluster.weight_transfer=network to use several nodes" if together else ""
    return (
        Role(
            "rollout",
            count=config.rollout.workers,
            cpus=cluster.rollout_cpus,
            gpus=devices * config.rollout.tensor_parallel,
            remedy="lower rollout.workers or cluster.rollout_cpus" + spread,
            one_node=together,
        ),
        Role(
            "learner",
            count=config.learner.ranks,
            cpus=cluster.learner_cpus,
            gpus=devices,
            remedy="lower learner.ranks or cluster.learner_cpus",
            one_node=together,
            shares="rollout" if shared else None,
        ),
        Role(
            "verifier",
            count=1,
            cpus=cluster.verifier_cpus,
            gpus=0,
            remedy="lower cluster.verifier_cpus",
            # With nothing of its own to take it needs no bundle either.
            shares=None if cluster.verifier_cpus else "rollout",
        ),
    )


def passes_weights_in_memory(config: Config) -> bool:
    """Whether published weights are a file that only the node of its writer sees, so that one node must hold all."""
    directory = os.path.abspath(config.cluster.weights_directory)
    local = any(os.path.commonpath([directory, place]) == place for place in _NODE_LOCAL)
    return config.cluster.weight_transfer == "file" and local and config.learner.ranks > 0


def engine_settings(config: Config, model: str, worker: int) -> EngineSettings:
    """What rollout worker number ``worker`` is told to start ``model`` with."""
    rollout = config.rollout
    return EngineSettings(
        model=model,
        device=config.cluster.device,
        dtype=rollout.dtype,
        tensor_parallel=rollout.tensor_parallel,
        max_model_len=config.model.max_prompt_tokens + config.model.max_response_tokens,
        max_sequences=rollout.max_sequences,
        max_batched_tokens=rollout.max_batched_tokens,
        memory_gib=rollout.memory_gib,
        memory_fraction=rollout.memory_fraction,
        threads=rollout.threads,
        enforce_eager=rollout.enforce_eager,
        takes_turns=shares_devices(config),
        prefix_caching=rollout.prefix_caching,
        seed=config.seed + worker,
    )


def learner_settings(config: Config) -> LearnerSettings:
    """What every learner rank is told."""
    learner, lora = config.learner, config.learner.lora
    return LearnerSettings(
        device=config.cluster.device,
        dtype=learner.dtype,
        seed=config.seed,
        activation_checkpointing=learner.activation_checkpointing,
        reshard_after_forward=learner.reshard_after_forward,
        offload=learner.offload,
        packing=learner.packing,
        attention=attention(config),
        lora=LoraSettings(lora.rank, lora.alpha, tuple(lora.targets)) if lora.rank else None,
        threads=learner.threads,
        rendezvous_timeout=config.cluster.rendezvous_timeout,
        timeout=config.cluster.step_timeout,
    )


def attention(config: Config) -> str:
    """The kind of attention that packed rows get."""
    if config.learner.attention != "auto":
        return config.learner.attention
    return next(name for name, row in ATTENTIONS.items() if config.cluster.device in row.devices)


def optimizer_settings(optimizer: Optimizer, total_steps: int) -> OptimizerSettings:
    """The learners' form of a stage's optimiser section; ``total_steps`` are optimiser steps."""
    return OptimizerSettings(
        name=optimizer.name,
        learning_rate=optimizer.learning_rate,
        muon_learning_rate=optimizer.muon_learning_rate,
        betas=(optimizer.betas[0], optimizer.betas[1]),
        weight_decay=optimizer.weight_decay,
        gradient_clip=optimizer.gradient_clip,
        total_steps=total_steps,
        warmup_steps=optimizer.warmup_steps or round(optimizer.warmup_fraction * total_steps),
        schedule=optimizer.schedule,
        final_fraction=optimizer.final_fraction,
    )


def policy_settings(config: Config, algorithm: Algorithm) -> PolicySettings:
    """The learners' form of the objective; ``algorithm`` is the configuration's with the KL coefficient of a step."""
    return PolicySettings(
        loss=algorithm.loss,
        ratio=algorithm.ratio,
        aggregation=algorithm.aggregation,
        fixed_length=config.model.max_response_tokens,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
        kl_coefficient=0.0 if algorithm.kl_in == "reward" else algorithm.kl_coefficient,
        kl_estimator=algorithm.kl_estimator,
        entropy_coefficient=algorithm.entropy_coefficient,
        correction=algorithm.correction,
        correction_level=algorithm.correction_level,
        correction_floor=algorithm.correction_floor,
        correction_limit=algorithm.correction_limit,
        old_logprobs=algorithm.old_logprobs,
        temperature=algorithm.temperature,
    )


def reward_rule(config: Config) -> RewardRule:
    """What the verifier rewards."""
    return RewardRule(
        weights=dict(config.algorithm.reward),
        mode=cast(VerdictMode, config.algorithm.verdict_mode),
        max_tokens=config.model.max_response_tokens,
        overlong_buffer=config.algorithm.overlong_buffer,
    )


def reward_functions(config: Config) -> dict[str, RewardFunction]:
    """The user's reward functions, by component name."""
    return {
        name: RewardFunction(
            path=function.path,
            sees=function.sees,
            deadline=function.deadline,
            memory_gib=function.memory_gib,
            processes=function.processes,
        )
        for name, function in config.verifier.functions.items()
    }
