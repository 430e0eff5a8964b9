"""The typed configuration of every stage, and the checks made before anything is allocated.

The YAML files under ``conf/`` hold the values; the dataclasses here hold names, types and meaning. Composition fails
on an unknown key (with the nearest match) and on a wrong type; :func:`check` fails on values that cannot work together.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from actors.learner.advantages import NEEDS_GROUP
from pipelines.algorithm import Algorithm, Verifier, objection


class ConfigError(ValueError):
    """A setting is unknown, has the wrong type, or cannot work with the others. Says what to change."""


@dataclass
class Model:
    """What is trained and how it is prompted."""

    path: str | None = None
    """Checkpoint directory or hub name; null: `prepare` builds the tiny model from scratch."""
    prompt: str = "chain_of_rubrics"
    """Prompt template by name, or the path of your own."""
    max_prompt_tokens: int = 4096
    """Longer prompts are filtered out and counted."""
    max_response_tokens: int = 8192
    """Limit of a generated judgment, the same in training and evaluation."""
    hidden: int = 96
    """The tiny model's width; like the next three, read only where `path` is null."""
    layers: int = 3
    heads: int = 3
    intermediate: int = 192


@dataclass
class MixSource:
    """One file or hub dataset of a mix."""

    path: str | None = None
    """A .jsonl or .parquet file, or a hub name; null: where the named schema is published."""
    schema: str = "auto"
    """A module of `pipelines/data/sources`; `auto` tells it from the rows."""
    split: str = "train"
    """Of a hub dataset."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field -> the column that holds it (`chosen: best.text`), for files of no known schema."""
    labels: dict[str, str] = field(default_factory=dict)
    """Value of a mapped `label` column -> `A` or `B`."""
    source: str | None = None
    """Name of the pairs' source; null: what the schema gives."""
    domain: str | None = None
    leave_out: list[str] | None = None
    """Sources of pairs not to use; null: those the schema leaves out."""
    take: int = 0
    """Pairs drawn from it by seed; 0: all."""


@dataclass
class Mix:
    """How `make data` builds a data set."""

    sources: dict[str, MixSource] = field(default_factory=dict)
    """By a name of your own; empty: `data.train` is the one source."""
    expect: dict[str, int] = field(default_factory=dict)
    """Pairs each source should have before duplicates are dropped; other counts are a warning."""
    drop_near_duplicates: bool = False
    drop_benchmark_items: bool = False
    """Leave out pairs that overlap with `data.lint.benchmarks`, instead of failing the check."""
    folder: str = "data"
    """Where data sets go: `<folder>/<name>/`."""


@dataclass
class Lint:
    """What `make lint-data` holds pairs to."""

    levels: dict[str, str] = field(default_factory=dict)
    """Check -> `fail`, `warn` or `off`, where it differs from the default."""
    benchmarks: list[str] = field(default_factory=list)
    """Files of benchmark items (.jsonl, .parquet) that pairs must not contain."""
    position_margin: float = 0.05
    """Allowed distance from one half of the share of pairs whose better response is shown first."""
    leak_margin: float = 0.02
    """Allowed distance from chance of the accuracy with which the masked prompt predicts the label."""
    bias_margin: float = 0.1
    """Distance from one half at which "longer wins" and "more markdown wins" are reported."""
    near_duplicate: float = 0.8
    """Jaccard similarity of word 5-grams from which two pairs are near duplicates."""
    overlap: float = 0.5
    """Share of a benchmark item's word 8-grams in one pair from which the item counts as contained."""
    truncated: float = 0.2
    """Share of responses without an end from which they are reported."""


@dataclass
class Data:
    """Preference pairs and reasoning chains."""

    train: str | None = None
    """Pairs for RL (.jsonl, .parquet); null: the built-in family."""
    heldout: str | None = None
    """Pairs for evaluation; null: split off `train` by prompt, or the built-in family's."""
    heldout_fraction: float = 0.05
    chains: str | None = None
    """Reasoning chains to distil (.jsonl, .parquet with `messages` and `chain`); null: the built-in teacher's."""
    orders: str = "alternate"
    """Label position in RL: `alternate`, `random`, or `both` orders of every pair in the same batch."""
    on_bad_row: str = "fail"
    """`fail` at a row that cannot be used, or `skip` and count it."""
    mix: Mix = field(default_factory=Mix)
    lint: Lint = field(default_factory=Lint)
    distill_pairs: int = 7000
    """Sizes of the built-in family's three disjoint sets."""
    rl_pairs: int = 8000
    heldout_pairs: int = 600


@dataclass
class Teacher:
    """A model that writes reasoning chains."""

    kind: str = "endpoint"
    """`endpoint`: an OpenAI-compatible server; `local`: rollout workers on the Ray cluster."""
    model: str | None = None
    """Name at the endpoint, or a checkpoint for local workers; null: the first teacher writes this pass too."""
    base_url: str | None = None
    """For example http://127.0.0.1:8000/v1; null: OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is written nowhere."""
    answers_as: str | None = None
    """Model name its answers carry, where that is not `model` or a dated form of it."""
    temperature: float | None = 0.7
    """Null: not sent, for models that refuse it; like the next."""
    top_p: float | None = 1.0
    max_tokens: int = 0
    """Of an answer; 0: `model.max_response_tokens`."""
    limit_field: str = "max_tokens"
    """What the endpoint calls that limit: `max_tokens` or `max_completion_tokens`."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request body."""
    send_seed: bool = True
    """Send each request's own seed; switch off for endpoints that refuse it."""
    stream: bool = True
    """Receive answers piece by piece, which keeps long ones from running into a proxy's limit."""
    concurrency: int = 32
    """Requests in flight."""
    requests_per_minute: int = 0
    """0: no limit; like the next."""
    tokens_per_minute: int = 0
    """Of prompts and answers together."""
    timeout: float = 600.0
    """Seconds for one attempt at a request, its whole answer included."""
    attempts: int = 6
    """At one request, before it counts as failed."""
    backoff: float = 1.0
    """Seconds before the second attempt; they double with every further one, up to a minute."""
    longest_wait: float = 600.0
    """Longest Retry-After, in seconds, that is waited for."""
    give_up_after: int = 8
    """Failed requests in a row after which the run stops."""
    input_price: float = 0.0
    """Money for a million prompt tokens."""
    output_price: float = 0.0
    """Money for a million answer tokens."""


@dataclass
class ChainFilters:
    """What a chain must have besides the right verdict. A measure that does not apply to a chain does not reject it."""

    well_formed: bool = True
    """Every section there, closed, in order, the answer last; false for models that think without sections."""
    quotes: int = 0
    """Quotes of the responses, at least."""
    quotes_found: float = 0.0
    """Share of the quotes that occur in the response they quote, at least."""
    weights_add_up: bool = False
    """Refuse rubrics whose weights do not make 100 percent."""
    criteria_mentioned: float = 0.0
    """Share of the rubric's criteria that the evaluation mentions, at least."""
    tally_agrees: bool = True
    """Refuse chains whose verdict is against the evaluation's own totals."""
    min_words: int = 0
    max_words: int = 0
    """0: no limit."""


@dataclass
class Chains:
    """Writing reasoning chains with teachers, in two passes."""

    pairs: str | None = None
    """Pairs to judge (.jsonl, .parquet, a hub name); null: `data.train`, or the built-in family's `distill` pairs."""
    limit: int = 0
    """Pairs drawn from them by seed; 0: all. A larger limit keeps those drawn by a smaller one."""
    orders: str = "alternate"
    """Label position: `alternate`, `random`, or `both` orders of every pair."""
    prompt: str | None = None
    """Prompt template of the first pass; null: `model.prompt`. Chains are learned under `model.prompt` either way."""
    hint: str = "revise"
    """Template of the second pass: `revise`, `retry`, or the path of a .txt file."""
    samples: int = 1
    """Answers a pair and pass; the best that may be kept is."""
    rounds: int = 1
    """Times the second pass is tried; 0: never."""
    hint_words: int = 6
    """Words in a row of the hint whose repetition betrays that the verdict was told."""
    betrayals: list[str] = field(default_factory=list)
    """Further phrases (regular expressions) that betray it."""
    budget_tokens: int = 0
    """Of all requests of the set, interrupted runs included; 0: no limit."""
    budget_cost: float = 0.0
    """In the money of the teachers' prices; 0: no limit."""
    filters: ChainFilters = field(default_factory=ChainFilters)
    first: Teacher = field(default_factory=Teacher)
    second: Teacher = field(default_factory=Teacher)


@dataclass
class Optimizer:
    """Optimiser and learning-rate schedule of a stage."""

    name: str = "adamw"
    """`adamw`, or `muon` for hidden matrices with AdamW for the rest."""
    learning_rate: float = 1e-6
    """AdamW's."""
    muon_learning_rate: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    warmup_steps: int = 0
    warmup_fraction: float = 0.0
    """Of all steps; used when `warmup_steps` is 0."""
    schedule: str = "constant"
    """`constant`, `cosine` or `linear`, after warm-up."""
    final_fraction: float = 0.1
    """Where a decaying schedule ends, as a share of the learning rate."""


@dataclass
class Checkpoints:
    """What is kept to continue from."""

    every: int = 50
    """Steps between checkpoints."""
    keep_last: int = 2
    """The best by held-out accuracy is kept besides."""


@dataclass
class Distill:
    """Supervised fine-tuning on reasoning chains."""

    epochs: int = 1
    batch_size: int = 128
    """Sequences a step."""
    max_tokens: int = 12288
    """Longer prompt-and-chain sequences are filtered out and counted."""
    evaluate_every: int = 0
    """Steps between evaluations on held-out pairs; 0: only at the end."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)


@dataclass
class Rl:
    """Reinforcement learning: sizes and rhythm. The mathematics is in `algorithm`."""

    policy: str | None = None
    """Model to start from; null: the distilled model of this run, or the base model where `distil_first` is false."""
    distil_first: bool = True
    """False for reasoning models, which skip distillation."""
    epochs: int = 1
    """Passes over the training pairs; `steps` may end them earlier."""
    steps: int = 0
    """Rollout batches; 0: as many as the epochs give."""
    prompts_per_step: int = 1024
    """Prompts of one rollout batch."""
    mini_batch_prompts: int = 128
    """Prompts of one optimiser step."""
    evaluate_every: int = 20
    """Steps between evaluations on held-out pairs; 0: only at the end."""
    evaluate_pairs: int = 0
    """Held-out pairs of the evaluations on the way; 0: all."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)


@dataclass
class Evaluate:
    """Judging held-out pairs, or the benchmarks that are named."""

    model: str | None = None
    """Model to judge with; null: what the stages before left."""
    temperature: float = 0.0
    example_traces: int = 400
    """Judgments stored for the report."""
    benchmarks: list[str] = field(default_factory=list)
    """Names of benchmarks and files of pairs to judge; empty: the run's held-out pairs."""
    paths: dict[str, str] = field(default_factory=dict)
    """Benchmark -> file, folder or hub name to take it from, in the place of its published set."""
    orders: str = "both"
    """Of a benchmark's pairs: `both`, one at `random` by seed, `chosen_first` or `chosen_second`."""
    votes: int = 1
    """Judgments of each pair and order; more than one needs a temperature."""
    max_tokens: int | None = None
    """Limit of a benchmark judgment; null: `model.max_response_tokens`, as in training."""
    as_published: bool = False
    """RM-Bench: read the third pass for the second, as the evaluation released with RM-R1 does."""
    limit: int = 0
    """Items of each benchmark, from its beginning; 0: all."""
    label: str | None = None
    """Name of the evaluation's folder; null: made from the model's name."""
    compare: list[str] = field(default_factory=list)
    """Folders of other evaluations to show side by side, with the significance of differences."""


@dataclass
class Rollout:
    """Rollout workers: vLLM engines."""

    workers: int = 1
    tensor_parallel: int = 1
    dtype: str = "bfloat16"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    memory_gib: float = 4.0
    memory_fraction: float = 0.85
    threads: int = 1
    enforce_eager: bool = False
    prefix_caching: bool = True


@dataclass
class Learner:
    """FSDP2 ranks."""

    ranks: int = 1
    dtype: str = "bfloat16"
    """Of the parameters in computation; master weights and reductions stay float32."""
    micro_batch_tokens: int = 16384
    """Padded tokens a micro-batch and rank may hold."""
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
    threads: int = 1


@dataclass
class Cluster:
    """Where the actors run."""

    device: str = "cpu"
    address: str | None = None
    """Ray cluster to join; null: RAY_ADDRESS, or a cluster of our own on this machine."""
    rollout_cpus: float = 1.0
    """Per rollout worker; with CUDA it takes `rollout.tensor_parallel` devices as well."""
    learner_cpus: float = 0.5
    """Per learner rank; with CUDA it takes one device as well."""
    verifier_cpus: float = 0.0
    ready_timeout: float = 120.0
    """Seconds to wait for the cluster to have the resources asked for."""
    start_timeout: float = 300.0
    """Seconds for an engine or a model to load."""
    step_timeout: float = 3600.0
    """Seconds for any single wait of a training step."""
    weights_directory: str = "/dev/shm"
    """Where published weights pass from learners to engines; with several nodes, a file system they share."""


@dataclass
class Tracking:
    """Weights & Biases; the same numbers are always written to metrics.jsonl as well."""

    wandb: str = "auto"
    """`auto` (online when a key is there, offline otherwise), `online`, `offline` or `disabled`."""
    project: str = "reasoning-reward-models"


@dataclass
class Config:
    """Everything a stage reads."""

    run: str = "tiny"
    """Name of the run: its folder under `output_root`."""
    recipe_name: str = "tiny"
    output_root: str = "outputs"
    seed: int = 0
    overwrite: bool = False
    """Start a finished or interrupted stage over."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    chains: Chains = field(default_factory=Chains)
    distill: Distill = field(default_factory=Distill)
    rl: Rl = field(default_factory=Rl)
    algorithm: Algorithm = field(default_factory=Algorithm)
    verifier: Verifier = field(default_factory=Verifier)
    evaluate: Evaluate = field(default_factory=Evaluate)
    rollout: Rollout = field(default_factory=Rollout)
    learner: Learner = field(default_factory=Learner)
    cluster: Cluster = field(default_factory=Cluster)
    tracking: Tracking = field(default_factory=Tracking)


CHOICES: dict[str, tuple[str, ...]] = {
    "data.orders": ("alternate", "random", "both"),
    "data.on_bad_row": ("fail", "skip"),
    "evaluate.orders": ("both", "random", "chosen_first", "chosen_second"),
    "chains.orders": ("alternate", "random", "both"),
    "chains.first.kind": ("endpoint", "local"),
    "chains.second.kind": ("endpoint", "local"),
    "chains.first.limit_field": ("max_tokens", "max_completion_tokens"),
    "chains.second.limit_field": ("max_tokens", "max_completion_tokens"),
    "distill.optimizer.name": ("adamw", "muon"),
    "rl.optimizer.name": ("adamw", "muon"),
    "distill.optimizer.schedule": ("constant", "cosine", "linear"),
    "rl.optimizer.schedule": ("constant", "cosine", "linear"),
    "algorithm.advantage": (*NEEDS_GROUP, "batch_standardised"),
    "algorithm.loss": ("clip", "cispo"),
    "algorithm.ratio": ("token", "sequence", "sequence_mean"),
    "algorithm.aggregation": ("token_mean", "sequence_mean", "fixed_length"),
    "algorithm.kl_estimator": ("k1", "k2", "k3"),
    "algorithm.kl_in": ("loss", "reward"),
    "algorithm.equal_reward_groups": ("keep", "drop", "refill"),
    "algorithm.old_logprobs": ("learner", "rollout"),
    "algorithm.correction": ("none", "truncate", "mask"),
    "algorithm.correction_level": ("token", "sequence"),
    "algorithm.verdict_mode": ("strict", "paper", "reference"),
    "verifier.on_failure": ("drop_trace", "drop_group", "stop"),
    "rollout.dtype": ("float32", "bfloat16", "float16"),
    "learner.dtype": ("float32", "bfloat16"),
    "cluster.device": ("cpu", "cuda"),
    "tracking.wandb": ("auto", "online", "offline", "disabled"),
}

OPEN = (
    "algorithm.reward.",
    "data.mix.sources.",
    "data.mix.expect.",
    "data.lint.levels.",
    "evaluate.paths.",
    "verifier.functions.",
    "chains.first.extra_body.",
    "chains.second.extra_body.",
)
"""Sections whose keys are the user's own."""
_TEACHER_AT_LEAST: dict[str, float] = {
    "max_tokens": 0,
    "concurrency": 1,
    "requests_per_minute": 0,
    "tokens_per_minute": 0,
    "timeout": 0.001,
    "attempts": 1,
    "backoff": 0,
    "longest_wait": 0,
    "give_up_after": 1,
    "input_price": 0,
    "output_price": 0,
}

AT_LEAST: dict[str, float] = {
    "seed": 0,
    "model.max_prompt_tokens": 1,
    "model.max_response_tokens": 1,
    "data.lint.position_margin": 0,
    "data.lint.leak_margin": 0,
    "data.lint.bias_margin": 0,
    "data.lint.near_duplicate": 0.5,
    "data.lint.overlap": 0.01,
    "data.lint.truncated": 0,
    "data.distill_pairs": 1,
    "data.rl_pairs": 1,
    "data.heldout_pairs": 1,
    "chains.limit": 0,
    "chains.samples": 1,
    "chains.rounds": 0,
    "chains.hint_words": 3,
    "chains.budget_tokens": 0,
    "chains.budget_cost": 0,
    **{f"chains.{teacher}.{name}": low for teacher in ("first", "second") for name, low in _TEACHER_AT_LEAST.items()},
    "distill.epochs": 1,
    "distill.batch_size": 1,
    "distill.max_tokens": 2,
    "distill.evaluate_every": 0,
    "distill.checkpoints.every": 1,
    "distill.checkpoints.keep_last": 1,
    "distill.optimizer.learning_rate": 0,
    "distill.optimizer.muon_learning_rate": 0,
    "distill.optimizer.gradient_clip": 0,
    "rl.epochs": 1,
    "rl.steps": 0,
    "rl.prompts_per_step": 1,
    "rl.mini_batch_prompts": 1,
    "rl.evaluate_every": 0,
    "rl.evaluate_pairs": 0,
    "rl.checkpoints.every": 1,
    "rl.checkpoints.keep_last": 1,
    "rl.optimizer.learning_rate": 0,
    "rl.optimizer.gradient_clip": 0,
    "algorithm.samples": 1,
    "algorithm.temperature": 0,
    "algorithm.clip_low": 0,
    "algorithm.clip_high": 0,
    "algorithm.dual_clip": 0,
    "algorithm.kl_coefficient": 0,
    "algorithm.kl_target": 0,
    "algorithm.entropy_coefficient": 0,
    "algorithm.refill_rounds": 1,
    "algorithm.correction_floor": 0,
    "algorithm.correction_limit": 1,
    "algorithm.max_staleness": 0,
    "evaluate.temperature": 0,
    "evaluate.votes": 1,
    "evaluate.limit": 0,
    "rollout.workers": 1,
    "rollout.tensor_parallel": 1,
    "rollout.max_sequences": 1,
    "rollout.threads": 1,
    "learner.ranks": 1,
    "learner.threads": 1,
    "learner.micro_batch_tokens": 1,
    "cluster.ready_timeout": 0,
    "cluster.start_timeout": 1,
    "cluster.step_timeout": 1,
}


def known_keys(kind: type = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration, sections included."""
    keys = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        keys.append(prefix + item.name)
        if is_dataclass(hints[item.name]):
            keys.extend(known_keys(hints[item.name], f"{prefix}{item.name}."))
    return keys


def nearest(name: str, candidates: list[str]) -> str:
    """`` did you mean 'x'?`` or nothing."""
    match = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    if not match:
        tail = name.rsplit(".", 1)[-1]
        match = [key for key in candidates if key.rsplit(".", 1)[-1] == tail][:1]
    return f"; did you mean {match[0]!r}?" if match else ""


def typed(composed: DictConfig) -> Config:
    """Turn what Hydra composed into a checked :class:`Config`.

    Raises:
        ConfigError: an unknown key (with the nearest match), a value of the wrong type, or values that cannot work.

    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), composed)
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key)
        parts = key.split(".")
        in_source = [".".join([*parts[:-1], item.name]) for item in fields(MixSource)]
        known = in_source if parts[:3] == ["data", "mix", "sources"] else known_keys()
        raise ConfigError(f"unknown setting {key!r}{nearest(key, known)}") from error
    except OmegaConfBaseException as error:
        reason = (error.msg or str(error)).splitlines()[0]
        raise ConfigError(f"setting {error.full_key!r} has the wrong type: {reason}") from error
    assert isinstance(config, Config)
    check(config)
    return config


def get(config: Config, key: str) -> Any:
    """Value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def check(config: Config) -> None:
    """Refuse what cannot work, before anything is allocated.

    Raises:
        ConfigError: naming the key, its value and what to change.

    """
    for key, choices in CHOICES.items():
        value = get(config, key)
        if value not in choices:
            raise ConfigError(f"{key}={value!r} is not one of {', '.join(choices)}{nearest(str(value), list(choices))}")
    for key, low in AT_LEAST.items():
        if get(config, key) < low:
            raise ConfigError(f"{key}={get(config, key)} is out of range: it must be at least {low:g}")
    if not config.run or "/" in config.run or config.run.startswith("."):
        raise ConfigError(f"run={config.run!r} must be a plain folder name: no '/', no leading '.'")
    if not 0 < config.data.heldout_fraction < 1:
        raise ConfigError(f"data.heldout_fraction={config.data.heldout_fraction} must lie between 0 and 1")
    for name in ("quotes_found", "criteria_mentioned"):
        if not 0 <= getattr(config.chains.filters, name) <= 1:
            raise ConfigError(
                f"chains.filters.{name}={getattr(config.chains.filters, name)} is a share: it must lie between 0 and 1"
            )
    if not 0 < config.algorithm.top_p <= 1:
        raise ConfigError(f"algorithm.top_p={config.algorithm.top_p} must lie in (0, 1]")
    if config.algorithm.temperature == 0:
        raise ConfigError("algorithm.temperature=0 makes every trace of a group the same: use 1.0")
    if config.evaluate.votes > 1 and config.evaluate.temperature == 0:
        raise ConfigError(
            f"evaluate.votes={config.evaluate.votes} at evaluate.temperature=0 gives equal votes: "
            "set a temperature, for example 1.0"
        )
    if config.chains.budget_cost and not any(
        teacher.input_price or teacher.output_price for teacher in (config.chains.first, config.chains.second)
    ):
        raise ConfigError(
            "chains.budget_cost has no effect without prices: set chains.first.input_price and output_price, "
            "or limit the tokens with chains.budget_tokens"
        )
    if config.chains.second.model is None and config.chains.second != Teacher():
        raise ConfigError(
            "chains.second has settings but no model, so the first teacher writes the second pass with its own: "
            "set chains.second.model"
        )
    if reason := objection(config.algorithm, config.verifier, config.data.orders):
        raise ConfigError(reason)
    _check_batches(config)
    if not config.evaluate.benchmarks:  # A benchmark needs no learners.
        _check_lengths(config)
    for stage in (config.distill, config.rl):
        if len(stage.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in stage.optimizer.betas):
            raise ConfigError(f"optimizer.betas={list(stage.optimizer.betas)} must be two numbers in [0, 1)")


def _check_batches(config: Config) -> None:
    batch, mini = config.rl.prompts_per_step, config.rl.mini_batch_prompts
    if batch % mini:
        raise ConfigError(
            f"rl.prompts_per_step={batch} does not divide into mini-batches of rl.mini_batch_prompts={mini}: "
            f"choose a divisor of {batch}"
        )
    if config.data.orders == "both" and mini % 2:
        raise ConfigError(
            f"rl.mini_batch_prompts={mini} must be even with data.orders=both: both orders of a pair share a mini-batch"
        )


def _check_lengths(config: Config) -> None:
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    if longest > config.learner.micro_batch_tokens:
        raise ConfigError(
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens} cannot hold one sequence of "
            f"model.max_prompt_tokens + model.max_response_tokens = {longest}: "
            "raise the first or lower one of the others"
        )
    if config.distill.max_tokens > config.learner.micro_batch_tokens:
        raise ConfigError(
            f"learner.micro_batch_tokens={config.learner.micro_batch_tokens} cannot hold one sequence of "
            f"distill.max_tokens={config.distill.max_tokens}: raise the first or lower the second"
        )
