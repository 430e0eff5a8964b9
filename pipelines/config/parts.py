"""Settings of the parts: engines, learners, the cluster they run on, tracking."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.learner.choices import ATTENTIONS
from pipelines.config.constraints import number, one_of


@dataclass
class Rollout:
    """Rollout workers: vLLM engines."""

    workers: int = number(1, at_least=1)
    tensor_parallel: int = number(1, at_least=1)
    """Devices per worker, which share each layer."""
    dtype: str = one_of("bfloat16", "float32", "float16")
    max_sequences: int = number(256, at_least=1)
    """Sequences in flight at once, per worker."""
    budget_tokens: int = number(0, at_least=0)
    """Tokens after which a training trace makes room for others; it goes on under the next weights, or sooner where
    engines have room. 0: a trace is written to its end, and weights change while it is."""
    max_batched_tokens: int = 8192
    memory_gib: float = number(4.0, above=0)
    """CPU: size of the key-value cache."""
    memory_fraction: float = number(0.85, above=0, at_most=1)
    """CUDA: share of the device's memory that an engine may take."""
    threads: int = number(1, at_least=1)
    """CPU: OpenMP threads per engine."""
    enforce_eager: bool = False
    prefix_caching: bool = True


@dataclass
class Lora:
    """Adapters of low rank, trained in the place of the whole model and merged into what is published and exported."""

    rank: int = number(0, at_least=0)
    """0: train the whole model."""
    alpha: int = number(32, at_least=1)
    """Adapter output is scaled by `alpha / rank`."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of linear layers that get one, such as `q_proj`; `all-linear`: every layer but the output's."""


@dataclass
class Learner:
    """FSDP2 ranks."""

    ranks: int = number(1, at_least=1)
    dtype: str = one_of("bfloat16", "float32")
    """Of the parameters in computation; master weights and reductions stay float32."""
    micro_batch_tokens: int = number(16384, at_least=1)
    """Largest number of tokens in the micro-batch of one rank, padding included."""
    offload: str = one_of("none", "reference", "all")
    """What lives in the machine's memory instead of the devices': the frozen reference, or all parameters and the
    optimiser's state too. Slower; for models that do not fit."""
    packing: bool = False
    """Sequences end to end without padding, a prompt that several traces share once; otherwise padded rows."""
    attention: str = one_of("auto", *ATTENTIONS)
    """Of packed rows: `flex` (one kernel for a row; CUDA), `sdpa` (torch's kernels on segments of similar length), or
    `auto`, the faster on the device."""
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
    lora: Lora = field(default_factory=Lora)
    peer_copy: bool = True
    """Copy the training state into memory outside of the ranks after every optimiser step, so that ranks that die come
    back with the step before instead of the last checkpoint. Two copies are kept, where three times one is free."""
    copies_on_other_nodes: bool = False
    """Send these copies on to the node of another rank, so that the loss of a node loses no step either. Takes as much
    memory again, and a copy's bytes over the network in every optimiser step."""
    threads: int = number(1, at_least=1)


@dataclass
class Cluster:
    """Where the actors run."""

    device: str = one_of("cpu", "cuda")
    address: str | None = None
    """Ray cluster to join; null: RAY_ADDRESS, or a cluster of our own on this machine."""
    rollout_cpus: float = number(1.0, at_least=0)
    """Per rollout worker; with CUDA it takes `rollout.tensor_parallel` devices as well."""
    learner_cpus: float = number(0.5, at_least=0)
    """Per learner rank; with CUDA it takes one device as well."""
    verifier_cpus: float = number(0.0, at_least=0)
    ready_timeout: float = number(120.0, at_least=0)
    """Seconds to wait for a cluster to answer, and then for it to have the resources asked for."""
    start_timeout: float = number(300.0, at_least=1)
    """Seconds for an engine or a model to load."""
    rendezvous_timeout: float = number(300.0, at_least=1)
    """Seconds for learners, or learners and engines, to meet: short, so that a blocked port does not hold a cluster."""
    step_timeout: float = number(3600.0, at_least=1)
    """Seconds for any single wait of a training step."""
    stuck_after: float = number(30.0, at_least=1)
    """Seconds without progress that no engine, verifier or learner rank is taken for stuck before; it is 10 times the
    longest standstill before it, where that is longer. What is stuck is killed and restarted."""
    max_restarts: int = number(10, at_least=0)
    """Engines, verifiers and learners that may be restarted within `restart_window`; 0: any death ends the run."""
    restart_window: float = number(3600.0, above=0)
    """Seconds."""
    grace: float = number(30.0, at_least=0)
    """Seconds from SIGTERM or Ctrl-C to the end: for a training loop to end its step and save, and for actors to end.
    0: stop at once."""
    weight_transfer: str = one_of("file", "network")
    """How published weights pass from learners to engines: through a `file`, or over the `network` (NCCL or gloo)."""
    weight_bucket_mib: float = number(256.0, above=0)
    """Over the network: weights sent at a time, in MiB; sender and receivers hold that much more."""
    weights_directory: str = "/dev/shm"
    """Where that file lies; with several nodes, on a file system they share."""
    share_devices: bool = False
    """Engines and learners take turns on the same devices, an engine and a rank on each: engines sleep while learners
    work, whose state is in the machine's memory while engines write."""
    memory_check: bool = True
    """Refuse to start what does not fit into memory by the formulas of `make plan`; false: start it all the same."""
    gpu_gib: float = number(80.0, above=0)
    """CUDA: memory of a device, in GiB."""
    gpus_per_node: int = number(8, at_least=1)
    """CUDA: devices of a node."""
    node_gib: float | None = number(None, above=0)
    """Memory of a node, in GiB; null: this machine's, where the job has a cluster of its own; otherwise not checked."""
    disk_gib: float | None = number(None, above=0)
    """Free disk for outputs, in GiB; null: what this machine has, under the same condition."""


@dataclass
class Tracking:
    """Weights & Biases; the same numbers are always written to metrics.jsonl as well."""

    wandb: str = one_of("auto", "online", "offline", "disabled")
    """`auto` (online when a key is there, offline otherwise), `online`, `offline` or `disabled`."""
    project: str = "reasoning-reward-models"
    entity: str | None = None
    """User or team that the project belongs to; null: `WANDB_ENTITY`, else the login's own."""
    runs: list[str] = field(default_factory=list)
    """Runs that `make dashboard` shows; empty: all of the project."""


@dataclass
class Plan:
    """What `make plan` takes for granted. docs/plan.md says where each default comes from."""

    pairs: int = number(0, at_least=0)
    """Training pairs; 0: what the recipe's data is known to hold."""
    chains: int = number(0, at_least=0)
    """Chains to distil; 0: likewise."""
    prompt_share: float = number(0.25, above=0, at_most=1)
    """Mean length of a prompt, as a share of `model.max_prompt_tokens`."""
    response_share: float = number(0.25, above=0, at_most=1)
    """Mean length of a trace, as a share of `model.max_response_tokens`."""
    chain_share: float = number(0.2, above=0, at_most=1)
    """Mean length of a prompt and its chain, as a share of `distill.max_tokens`."""
    learner_tflops: float | None = number(None, above=0)
    """What a rank computes, in 10^12 operations per second; null: 350 with CUDA, 0.1 on CPU."""
    engine_tokens_per_second: float | None = number(None, above=0)
    """What an engine generates; null: by a formula from the model's size."""
    gpu_bandwidth: float = number(1.7, above=0)
    """CUDA: what a device reads from its memory while it generates, in 10^12 bytes per second."""
    link: float = number(10.0, above=0)
    """What published weights pass at, in 10^9 bytes per second."""
    host_link: float = number(25.0, above=0)
    """CUDA: what passes between a device's memory and the machine's, in 10^9 bytes per second."""
    gpu_price: float = number(0.0, at_least=0)
    """Price of an hour of a GPU."""
