"""What a learner is told: plain records the driver can make without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError


class ModelError(UserError, RuntimeError):
    """A model cannot be loaded or used; names its path and the reason."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters; see ``lora.py``."""

    rank: int = 16
    alpha: int = 32
    """Adapters are added with the factor ``alpha / rank``."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of linear layers, such as `q_proj`, or `all-linear`."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a rank computes."""

    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
    offload: str = "none"
    """What lives in the machine's memory instead of the device's: `none`, the `reference`, or `all`."""
    packing: bool = False
    """Sequences end to end, a prompt that several share once; otherwise padded rows."""
    lora: LoraSettings | None = None
    """Train adapters of low rank and leave the model as it is; None: train all of it."""
    threads: int = 1
    timeout: float = 1800.0
    """Seconds after which a collective that other ranks never join is an error."""
    log_path: str | None = None


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """What a stage optimises with."""

    name: str = "adamw"
    learning_rate: float = 1e-6
    """AdamW's; with Muon, that of embeddings, norms and biases."""
    muon_learning_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    """Global norm; 0 does not clip."""
    total_steps: int = 1
    warmup_steps: int = 0
    schedule: str = "constant"
    final_fraction: float = 0.1


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The objective of a policy step; formulas are in ``objectives.py`` and ``corrections.py``."""

    loss: str = "clip"
    """A row of ``choices.LOSSES``; so are the names below of their tables."""
    ratio: str = "token"
    aggregation: str = "token_mean"
    fixed_length: int = 1
    """Tokens that `fixed_length` divides by."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    """Bound of the ratio where the advantage is negative; 0: none."""
    kl_coefficient: float = 1e-3
    """Of the KL in the loss; 0 where it is in the reward."""
    kl_estimator: str = "k3"
    entropy_coefficient: float = 0.0
    correction: str = "none"
    """How tokens are weighed by old policy / engine's policy."""
    correction_level: str = "token"
    correction_floor: float = 0.5
    """Weights below are masked."""
    correction_limit: float = 2.0
    """Weights above are truncated or masked."""
    old_logprobs: str = "learner"
    """Source of the old log-probabilities: `learner` or `rollout`."""
    temperature: float = 1.0
    """That the traces were sampled at; log-probabilities are of the same distribution."""
