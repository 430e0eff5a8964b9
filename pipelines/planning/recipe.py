"""What the settings of a recipe ask for: its model's shape, and the loads of its learners and engines."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config
from pipelines.data.tiny_model import VOCABULARY
from pipelines.job.connection import address_of
from pipelines.job.settings import engine_settings, learner_settings
from pipelines.planning.engine import EngineLoad
from pipelines.planning.learner import GIB, LearnerLoad
from pipelines.planning.shape import ModelShape, find_shape

# Rows of the published sets that the recipes name (RM-R1, arXiv 2505.02387; the dataset cards).
_ROWS = {
    "gaotang/RM-R1-Distill-SFT": 8_750,
    "gaotang/RM-R1-after-Distill-RLVR": 64_226,
    "gaotang/RM-R1-Reasoning-RLVR": 73_000,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node has, in bytes; None: not known, so not checked."""

    memory: float | None
    weights: float | None
    """Free where published weights lie."""
    disk: float | None
    """Free where outputs lie."""


def model_shape(config: Config) -> ModelShape | None:
    """The shape of the model that is trained; None where nothing on this machine says it."""
    model, path = config.model, config.rl.policy or config.model.path
    if path is not None:
        return find_shape(path, model.shape)
    return ModelShape(
        model.hidden,
        model.intermediate,
        model.layers,
        model.heads,
        model.heads,
        max(1, model.hidden // model.heads),
        VOCABULARY,
        tied=True,
        qkv_bias=True,
    )


def learner_load(config: Config, stage: str) -> LearnerLoad:
    """A rank's load in a stage, ``distill`` or ``rl``."""
    settings, lora = learner_settings(config), config.learner.lora
    return LearnerLoad(
        ranks=config.learner.ranks,
        dtype=settings.dtype,
        tokens=config.learner.micro_batch_tokens,
        checkpointing=settings.activation_checkpointing,
        reshard=settings.reshard_after_forward,
        offload=settings.offload,
        reference=stage == "rl" and config.algorithm.kl_coefficient > 0,
        optimizer=(config.rl if stage == "rl" else config.distill).optimizer.name,
        lora_rank=lora.rank,
        lora_targets=tuple(lora.targets),
        device=settings.device,
    )


def engine_load(config: Config) -> EngineLoad:
    """The load of a process of an engine."""
    settings, cluster = engine_settings(config, "", 0), config.cluster
    return EngineLoad(
        device=settings.device,
        dtype=settings.dtype,
        devices=settings.tensor_parallel,
        longest=settings.max_model_len,
        sequences=settings.max_sequences,
        batched_tokens=settings.max_batched_tokens,
        cache_gib=settings.memory_gib,
        device_gib=cluster.gpu_gib,
        fraction=settings.memory_fraction,
        eager=settings.enforce_eager,
    )


def stages(config: Config) -> tuple[str, ...]:
    """Stages of a whole run that train."""
    return ("distill", "rl") if config.rl.distil_first else ("rl",)


def training_pairs(config: Config) -> int | None:
    """Pairs for RL, held-out ones left out; None where nothing says how many there are."""
    plan, data = config.plan, config.data
    if data.train is None and not plan.pairs:
        return data.rl_pairs
    pairs = plan.pairs or _rows(data.train)
    return None if pairs is None else round(pairs * (1 - (data.heldout_fraction if data.heldout is None else 0)))


def chains(config: Config) -> int | None:
    """Chains to distil; None where nothing says how many there are."""
    if config.data.chains is None and not config.plan.chains:
        return 2 * config.data.distill_pairs if config.data.train is None else None
    return config.plan.chains or _rows(config.data.chains)


def _rows(path: str | None) -> int | None:
    file = Path(path or "")
    if file.is_file() and file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file).num_rows)
    if file.is_file() and file.suffix == ".jsonl":
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return _ROWS.get(path or "")


def machine(config: Config) -> Machine:
    """What a node of the cluster has: as the settings say, or as this machine has where the cluster is its own."""
    cluster = config.cluster
    ours = address_of(cluster.address, os.environ) is None
    memory = cluster.node_gib * GIB if cluster.node_gib else memory_here() if ours else None
    disk = cluster.disk_gib * GIB if cluster.disk_gib else _free(config.output_root) if ours else None
    return Machine(memory, _free(cluster.weights_directory) if ours else None, disk)


def memory_here() -> float:
    """This machine's memory in bytes, or what its control group may take of it."""
    found = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(float(Path(file).read_text()))
        except (OSError, ValueError):  # Not there, or "max".
            continue
    return min(found)


def _free(folder: str) -> float:
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)
