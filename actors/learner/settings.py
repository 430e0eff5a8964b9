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
    lora: LoraSettings | None
    """Train adapters of low rank and leave the model as it is; None: train all of it."""
    threads: int
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
    """`clip` or `cispo`."""
    ratio: str
    """`token`, `sequence` or `sequence_mean`."""
    aggregation: str
    """`token_mean`, `sequence_mean` or `fixed_length`."""
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
    """For what the engine's policy differs from the old one: `none`, `truncate` or `mask`."""
    correction_level: str
    """`token` or `sequence`."""
    correction_floor: float
    """Weights below are masked."""
    correction_limit: float
    """Weights above are truncated or masked."""
    old_logprobs: str
    """Whose log-probabilities the old ones are, where a batch has them: the `learner`'s, recomputed, or the engine's,
    `rollout`."""
    temperature: float
    """That the traces were sampled at; log-probabilities are of the same distribution."""
