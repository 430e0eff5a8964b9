"""What actors are told in tests: a small model on the CPU, everything plain; a test names what it is about."""

from __future__ import annotations

from typing import Any

from actors.learner.settings import LearnerSettings, LoraSettings, OptimizerSettings, PolicySettings
from actors.rollout.settings import EngineSettings


def small_engine(model: str, **changes: Any) -> EngineSettings:
    values: dict[str, Any] = {
        "model": model,
        "device": "cpu",
        "dtype": "float32",
        "tensor_parallel": 1,
        "max_model_len": 256,
        "max_sequences": 32,
        "max_batched_tokens": 8192,
        "memory_gib": 0.1,
        "memory_fraction": 0.85,
        "threads": 1,
        "enforce_eager": True,
        "takes_turns": False,
        "prefix_caching": True,
        "seed": 0,
    }
    return EngineSettings(**values | changes)


def small_learner(**changes: Any) -> LearnerSettings:
    values: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "seed": 0,
        "activation_checkpointing": False,
        "reshard_after_forward": True,
        "offload": "none",
        "packing": False,
        "attention": "sdpa",
        "lora": None,
        "threads": 1,
        "rendezvous_timeout": 60.0,
        "timeout": 60.0,
    }
    return LearnerSettings(**values | changes)


def small_lora(**changes: Any) -> LoraSettings:
    return LoraSettings(**{"rank": 16, "alpha": 32, "targets": ("all-linear",)} | changes)


def small_optimizer(**changes: Any) -> OptimizerSettings:
    values: dict[str, Any] = {
        "name": "adamw",
        "learning_rate": 1e-6,
        "muon_learning_rate": 0.01,
        "betas": (0.9, 0.95),
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "total_steps": 1,
        "warmup_steps": 0,
        "schedule": "constant",
        "final_fraction": 0.1,
    }
    return OptimizerSettings(**values | changes)


def small_policy(**changes: Any) -> PolicySettings:
    values: dict[str, Any] = {
        "loss": "clip",
        "ratio": "token",
        "aggregation": "token_mean",
        "fixed_length": 1,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 0.0,
        "kl_coefficient": 1e-3,
        "kl_estimator": "k3",
        "entropy_coefficient": 0.0,
        "correction": "none",
        "correction_level": "token",
        "correction_floor": 0.5,
        "correction_limit": 2.0,
        "old_logprobs": "learner",
        "temperature": 1.0,
    }
    return PolicySettings(**values | changes)
