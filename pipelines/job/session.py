"""The running parts of a job: the Ray cluster, reserved resources, engines, verifier and learners.

A session is opened once and lent to one stage after another, so that `run` starts Ray and the engines a single time.
Everything it started ends with it, also when a stage fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from actors.deadlines import get
from actors.learner.actor import Learner
from actors.learner.group import LearnerGroup
from actors.learner.settings import LearnerSettings, LoraSettings
from actors.placement import ClusterShape, reserve
from actors.rollout.engine import EngineSettings
from actors.rollout.fleet import RolloutFleet
from actors.rollout.worker import RolloutWorker
from actors.verifier.actor import RewardVerifier
from actors.verifier.functions import RewardFunction
from actors.verifier.rewards import RewardRule
from actors.verifier.trace import VerdictMode
from actors.weights.sync import WeightSync
from pipelines.config import Config
from pipelines.runs.folder import RunDirectory

log = logging.getLogger(__name__)

# What an actor's process needs of the driver's environment; set for each actor, because Ray's own workers start before.
_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_DEBUG")


class Session:
    """Actors of one job. Use as a context manager; parts start when they are first asked for."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config = config
        self.run = run
        self._started_ray = False
        self._placement: Any = None
        self._workers: list[Any] = []
        self._engine_model: str | None = None
        self._fleet: RolloutFleet | None = None
        self._verifier: Any = None
        self._learners: LearnerGroup | None = None
        self._weight_sync: WeightSync | None = None
        # Keyed by the run's folder: a run that was killed leaves its last weights here, and its successor clears them.
        digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:12]
        self.weights_directory = Path(config.cluster.weights_directory) / f"reasoning-reward-models-{digest}"

    def __enter__(self) -> Self:
        shutil.rmtree(self.weights_directory, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        address = self.config.cluster.address or os.environ.get("RAY_ADDRESS")
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # A cluster of our own, for this process alone: no dashboard, no port that others could reach.
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        self._started_ray = True

    def _options(self, bundle: int, resources: dict[str, float]) -> dict[str, Any]:
        """Ray options that put an actor into its bundle of the placement group."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        settings = self.config
        threads = settings.rollout.threads if bundle < settings.rollout.workers else settings.learner.threads
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {
            "num_cpus": resources.get("CPU", 0),
            "num_gpus": resources.get("GPU", 0),
            "max_restarts": 0,
            "runtime_env": {"env_vars": environment},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._reserved(), bundle),
        }

    def shape(self) -> ClusterShape:
        """Resources this configuration asks for."""
        cluster, cuda = self.config.cluster, self.config.cluster.device == "cuda"
        return ClusterShape(
            rollout_workers=self.config.rollout.workers,
            rollout_cpus=cluster.rollout_cpus,
            rollout_gpus=self.config.rollout.tensor_parallel if cuda else 0,
            learners=self.config.learner.ranks,
            learner_cpus=cluster.learner_cpus,
            learner_gpus=1 if cuda else 0,
        )

    def _reserved(self) -> Any:
        if self._placement is None:
            self._connect()
            self._placement = reserve(self.shape(), self.config.cluster.ready_timeout)
        return self._placement

    def _log_path(self, name: str) -> str:
        return str(self.run.logs / f"{name}.log")

    def launch_rollouts(self, model: str) -> None:
        """Begin to start the engines on ``model`` without waiting, so that other parts start meanwhile."""
        import ray

        if self._workers:
            return
        settings = self.config
        self._engine_model = model
        for index in range(settings.rollout.workers):
            engine = EngineSettings(
                model=model,
                device=settings.cluster.device,
                dtype=settings.rollout.dtype,
                tensor_parallel=settings.rollout.tensor_parallel,
                max_model_len=settings.model.max_prompt_tokens + settings.model.max_response_tokens,
                max_sequences=settings.rollout.max_sequences,
                max_batched_tokens=settings.rollout.max_batched_tokens,
                memory_gib=settings.rollout.memory_gib,
                memory_fraction=settings.rollout.memory_fraction,
                threads=settings.rollout.threads,
                enforce_eager=settings.rollout.enforce_eager,
                prefix_caching=settings.rollout.prefix_caching,
                seed=settings.seed + index,
            )
            options = self._options(index, self.shape().rollout_bundle())
            worker = ray.remote(RolloutWorker).options(max_concurrency=1000, **options)
            self._workers.append(worker.remote(engine, self._log_path(f"rollout-{index}")))

    def rollouts(self, model: str) -> tuple[RolloutFleet, bool]:
        """The engines, and whether they hold ``model`` as loaded from disk (False: they need a publish first)."""
        if self._fleet is None:
            self.launch_rollouts(model)
            self._fleet = RolloutFleet(self._workers, self.config.cluster.step_timeout)
            self._fleet.start(0, self.config.cluster.start_timeout)
            return self._fleet, self._engine_model == model
        return self._fleet, False

    def verifier(self) -> Any:
        """The reward verifier's Ray handle."""
        import ray

        if self._verifier is None:
            self._reserved()
            actor = ray.remote(RewardVerifier).options(num_cpus=self.config.cluster.verifier_cpus, max_restarts=0)
            rule = RewardRule(
                weights=dict(self.config.algorithm.reward),
                mode=cast(VerdictMode, self.config.algorithm.verdict_mode),
                max_tokens=self.config.model.max_response_tokens,
                overlong_buffer=self.config.algorithm.overlong_buffer,
            )
            functions = {
                name: RewardFunction(**asdict(function)) for name, function in self.config.verifier.functions.items()
            }
            self._verifier = actor.remote(rule, functions, self._log_path("verifier"))
            get([self._verifier.ready.remote()], self.config.cluster.start_timeout, "the reward verifier to start")
        return self._verifier

    def learners(self) -> LearnerGroup:
        """Learner ranks, joined; a stage loads its own model into those of the stage before."""
        import ray

        if self._learners is not None:
            return self._learners
        settings, lora = self.config, self.config.learner.lora
        handles = []
        for rank in range(settings.learner.ranks):
            learner = LearnerSettings(
                device=settings.cluster.device,
                dtype=settings.learner.dtype,
                seed=settings.seed,
                activation_checkpointing=settings.learner.activation_checkpointing,
                reshard_after_forward=settings.learner.reshard_after_forward,
                offload=settings.learner.offload,
                packing=settings.learner.packing,
                lora=LoraSettings(lora.rank, lora.alpha, tuple(lora.targets)) if lora.rank else None,
                threads=settings.learner.threads,
                timeout=settings.cluster.step_timeout,
                log_path=self._log_path(f"learner-{rank}"),
            )
            options = self._options(settings.rollout.workers + rank, self.shape().learner_bundle())
            handles.append(ray.remote(Learner).options(**options).remote(rank, settings.learner.ranks, learner))
        group = LearnerGroup(
            handles, settings.learner.micro_batch_tokens, settings.cluster.step_timeout, settings.learner.packing
        )
        group.join(settings.cluster.start_timeout)
        self._learners = group
        return group

    def weight_sync(self) -> WeightSync:
        """The way of new weights from the learners to the engines, both of which have been started."""
        if self._fleet is None or self._learners is None:
            raise RuntimeError("weights pass from learners to engines: start both first")
        if self._weight_sync is None:
            cluster, rollout = self.config.cluster, self.config.rollout
            directory = str(self.weights_directory) if cluster.weight_transfer == "file" else None
            self._weight_sync = WeightSync(
                self._learners, self._fleet, directory, rollout.dtype, rollout.tensor_parallel, cluster.step_timeout
            )
        return self._weight_sync

    def release_learners(self) -> None:
        """End the learner ranks and free what they hold."""
        import ray

        if self._learners is not None:
            for handle in self._learners.handles:
                ray.kill(handle)
            self._learners = self._weight_sync = None

    def close(self) -> None:
        """End every actor, and the Ray cluster if it is ours."""
        import ray

        if not ray.is_initialized():
            return
        if self._fleet is not None:
            with contextlib.suppress(Exception):
                self._fleet.stop()
        self.release_learners()
        for handle in [*self._workers, *([self._verifier] if self._verifier is not None else [])]:
            with contextlib.suppress(Exception):
                ray.kill(handle)
        self._workers, self._fleet, self._verifier = [], None, None
        if self._placement is not None:
            from ray.util.placement_group import remove_placement_group

            with contextlib.suppress(Exception):
                remove_placement_group(self._placement)
            self._placement = None
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
        shutil.rmtree(self.weights_directory, ignore_errors=True)
