"""Settings of the model and of the stages that train and judge with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.learner.choices import OPTIMIZERS
from pipelines.config.chains import Chains, Teacher
from pipelines.config.constraints import FILE, PATH, location, number, one_of
from pipelines.config.judging import Judge, Rank
from pipelines.config.rewarding import Rewarding
from pipelines.config.serving import Serving


@dataclass
class Model:
    """What is trained and how it is prompted."""

    path: str | None = location()
    """Checkpoint directory or hub name; null: `prepare` builds the tiny model from scratch."""
    prompt: str = location("chain_of_rubrics", FILE)
    """Prompt template by name, or the path of your own."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the model's chat template, such as `enable_thinking: false`."""
    max_prompt_tokens: int = number(4096, at_least=1)
    """Longer prompts are filtered out and counted."""
    max_response_tokens: int = number(8192, at_least=1)
    """Limit of a generated judgment, the same in training and evaluation."""
    hidden: int = number(96, at_least=1)
    """The tiny model's width; like the next three, read only where `path` is null."""
    layers: int = number(3, at_least=1)
    heads: int = number(3, at_least=1)
    intermediate: int = number(192, at_least=1)
    shape: dict[str, Any] = field(default_factory=dict)
    """Keys of the `config.json` of the model that `_name_or_path` names: memory is planned by them where no such file
    is on this machine."""


@dataclass
class Optimizer:
    """Optimiser and learning-rate schedule of a stage."""

    name: str = one_of(*OPTIMIZERS)
    """`adamw`; `adamw8bit`, with a quarter of its state; or `muon` for hidden matrices with AdamW for the rest."""
    learning_rate: float = number(1e-6, at_least=0)
    """Of AdamW; with `muon`, for embeddings, norms and biases."""
    muon_learning_rate: float = number(0.01, at_least=0)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = number(0.0, at_least=0)
    gradient_clip: float = number(1.0, at_least=0)
    warmup_steps: int = number(0, at_least=0)
    warmup_fraction: float = number(0.0, at_least=0, at_most=1)
    """Share of all steps that warm up; used when `warmup_steps` is 0."""
    schedule: str = one_of("constant", "cosine", "linear")
    """`constant`, `cosine` or `linear`, after warm-up."""
    final_fraction: float = number(0.1, at_least=0, at_most=1)
    """Where a decaying schedule ends, as a share of the learning rate."""


@dataclass
class Checkpoints:
    """What is kept to continue from."""

    every: int = number(50, at_least=1)
    """Steps between checkpoints."""
    every_minutes: float = number(30.0, at_least=0)
    """Minutes after which the next step is saved, whatever its number; 0: never for the time alone."""
    in_background: bool = True
    """Copy what is saved into the machine's memory, and train on while it is written; false: wait for it."""
    keep_last: int = number(2, at_least=1)
    """Checkpoints to keep, the latest ones; the best by held-out accuracy is kept besides."""


@dataclass
class Distill:
    """Supervised fine-tuning on reasoning chains."""

    epochs: int = number(1, at_least=1)
    batch_size: int = number(128, at_least=1)
    """Sequences per step."""
    max_tokens: int = number(12288, at_least=2)
    """Longer prompt-and-chain sequences are filtered out and counted."""
    evaluate_every: int = number(0, at_least=0)
    """Steps between evaluations on held-out pairs; 0: only at the end."""
    optimizer: Optimizer = field(
        default_factory=lambda: Optimizer(learning_rate=5e-6, warmup_fraction=0.03, schedule="cosine")
    )
    checkpoints: Checkpoints = field(default_factory=Checkpoints)


@dataclass
class Rl:
    """Reinforcement learning: sizes and rhythm. The mathematics is in `algorithm`."""

    policy: str | None = location()
    """Model to start from; null: the distilled model of this run, or the base model where `distil_first` is false."""
    distil_first: bool = True
    """False for reasoning models, which skip distillation."""
    epochs: int = number(1, at_least=1)
    """Passes over the training pairs; `steps` may end them earlier."""
    steps: int = number(0, at_least=0)
    """Rollout batches; 0: as many as the epochs give."""
    prompts_per_step: int = number(1024, at_least=1)
    """Prompts of one rollout batch."""
    mini_batch_prompts: int = number(128, at_least=1)
    """Prompts of one optimiser step."""
    learn_early: bool = True
    """Begin to learn on complete groups while others are being written, where that changes nothing: gradients where a
    rollout batch is one mini-batch, else old log-probabilities."""
    max_failed_share: float = number(0.05, at_least=0, at_most=1)
    """Share of a rollout batch's traces that may be missing because their generation failed twice; with more the run
    stops before it learns from what is left."""
    evaluate_every: int = number(10, at_least=0)
    """Steps between evaluations on held-out pairs; 0: only at the end."""
    evaluate_pairs: int = number(0, at_least=0)
    """Held-out pairs of the evaluations on the way; 0: all."""
    warn_after_flat_steps: int = number(5, at_least=0)
    """Consecutive steps in which nothing could be learned before a warning says so; 0: never."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    checkpoints: Checkpoints = field(default_factory=lambda: Checkpoints(every=10))


@dataclass
class Evaluate:
    """Judging held-out pairs, or the benchmarks that are named."""

    model: str | None = location()
    """Model to judge with: a folder, a hub name, or `openai:NAME` behind an endpoint; null: what the stages before
    left."""
    base_url: str | None = None
    """Where `openai:NAME` is, for example http://127.0.0.1:8000/v1; null: OpenAI's own."""
    endpoint: Teacher = field(default_factory=Teacher)
    """How that is asked, as teachers are; its model, address, temperature (null: not sent) and `max_tokens` are the
    evaluation's."""
    budget_tokens: int = number(0, at_least=0)
    """Tokens that an evaluation through an endpoint may take, those of interrupted ones included; 0: no limit."""
    budget_cost: float = number(0.0, at_least=0)
    """What it may cost, in the currency of `endpoint`'s prices; 0: no limit."""
    temperature: float = number(0.0, at_least=0, at_most=2)
    example_traces: int = number(400, at_least=0)
    """Judgments stored for the report."""
    benchmarks: list[str] = field(default_factory=list, metadata=FILE)
    """Names of benchmarks and files of pairs to judge; empty: the run's held-out pairs."""
    paths: dict[str, str] = field(default_factory=dict, metadata=PATH)
    """Benchmark -> file, folder or hub name to take it from, in the place of its published set."""
    orders: str = one_of("both", "random", "chosen_first", "chosen_second")
    """Of a benchmark's pairs: `both`, one at `random` by seed, `chosen_first` or `chosen_second`."""
    votes: int = number(1, at_least=1)
    """Judgments of each pair and order; more than one needs a temperature."""
    max_tokens: int | None = None
    """Limit of a benchmark judgment; null: `model.max_response_tokens`, as in training."""
    verdict_logprobs: bool = True
    """Log how probable each benchmark verdict's token was, for the confidence `verdict`; false: faster."""
    protocol: str = one_of("auto", "official", "pairs")
    """Of a benchmark whose official protocol asks for more than pairs (RewardBench 2): `official`, `pairs`, or `auto`,
    official unless the model's run trained it for pairs alone."""
    as_published: bool = False
    """Score with the slip of the evaluation that published figures come from, where a benchmark has one."""
    limit: int = number(0, at_least=0)
    """Items of each benchmark, from its beginning; 0: all."""
    label: str | None = None
    """Name of the evaluation's folder; null: made from the model's name."""
    compare: list[str] = field(default_factory=list, metadata=PATH)
    """Folders of other evaluations to show side by side, with the significance of differences."""


@dataclass
class Stages:
    """Sections of the stages: the configuration has these fields, so that a stage is one class and one field here."""

    chains: Chains = field(default_factory=Chains)
    distill: Distill = field(default_factory=Distill)
    rl: Rl = field(default_factory=Rl)
    evaluate: Evaluate = field(default_factory=Evaluate)
    judge: Judge = field(default_factory=Judge)
    rank: Rank = field(default_factory=Rank)
    serve: Serving = field(default_factory=Serving)
    reward: Rewarding = field(default_factory=Rewarding)
