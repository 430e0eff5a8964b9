"""What a learner is told: plain records the driver can make without loading torch.

Values come from the configuration, which has the only defaults.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import UserError


class ModelError(UserError, RuntimeError):
    """A model cannot be loaded or used; names its path and the reason."""


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters; see ``lora.py``."""

    rank: int
    alpha: int
    """Adapters are added with the factor ``alpha / rank``."""
    targets: tuple[str, ...]
    """Names of linear layers, such as `q_proj`, or `all-linear`."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a rank computes."""

    device: str
    dtype: str
    seed: int
    activation_checkpointing: bool
    reshard_after_forward: bool
    offload: str
    """What lives in the machine's memory instead of the device's: `none`, the `reference`, or `all`."""
    packing: bool
    """Sequences end to end, a prompt that several share once; otherwise padded rows."""
    attention: str
    """Of packed rows; a row of ``choices.ATTENTIONS``."""
    lora: LoraSettings | None
    """Train adapters of low rank and leave the model as it is; None: train all of it."""
    threads: int
    rendezvous_timeout: float
    """Seconds for all ranks to meet."""
    timeout: float
    """Seconds after which a collective that other ranks never join is an error."""


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """What a stage optimises with."""

    name: str
    learning_rate: float
    """AdamW's; with Muon, that of embeddings, norms and biases."""
    muon_learning_rate: float
    betas: tuple[float, float]
    weight_decay: float
    gradient_clip: float
    """Global norm; 0 does not clip."""
    total_steps: int
    warmup_steps: int
    schedule: str
    final_fraction: float


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The objective of a policy step; formulas are in ``objectives.py`` and ``corrections.py``."""

    loss: str
    """A row of ``choices.LOSSES``; so are the names below of their tables."""
    ratio: str
    aggregation: str
    fixed_length: int
    """Tokens that `fixed_length` divides by."""
    clip_low: float
    clip_high: float
    dual_clip: float
    """Bound of the ratio where the advantage is negative; 0: none."""
    kl_coefficient: float
    """Of the KL in the loss; 0 where it is in the reward."""
    kl_estimator: str
    entropy_coefficient: float
    correction: str
    """How tokens are weighed by old policy / engine's policy."""
    correction_level: str
    correction_floor: float
    """Weights below are masked."""
    correction_limit: float
    """Weights above are truncated or masked."""
    old_logprobs: str
    """Source of the old log-probabilities: `learner` or `rollout`."""
    temperature: float
    """That the traces were sampled at; log-probabilities are of the same distribution."""
