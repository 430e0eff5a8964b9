"""What a learner is told: plain records the driver can make without loading torch."""

from __future__ import annotations

from dataclasses import dataclass


class ModelError(RuntimeError):
    """A model cannot be loaded or used; names its path and the reason."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a rank computes."""

    device: str = "cpu"
    dtype: str = "float32"
    seed: int = 0
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
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
    """The clipped objective with a KL term."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coefficient: float = 1e-3
    kl_estimator: str = "k3"
    temperature: float = 1.0
    """That the traces were sampled at; log-probabilities are of the same distribution."""
