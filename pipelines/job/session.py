"""The running parts of a job: the Ray cluster, reserved resources, engines, verifier and learners.

A session is opened once and lent to one stage after another, so that `run` starts Ray and the engines a single time.
Everything it started ends with it, also when a stage fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.deadlines import ActorFailed, NamedActor
from actors.failures import Kind
from actors.learner.actor import BESIDE
from actors.learner.group import LearnerGroup
from actors.placement import Placement
from actors.restarts import Faults, StartTime
from actors.rollout.fleet import RolloutFleet
from actors.rollout.roster import Revival
from actors.rollout.worker import RolloutWorker
from actors.weights.sync import WeightSync
from pipelines.config import Config
from pipelines.config.arithmetic import slow_dtype
from pipelines.job.belonging import environment, reserved
from pipelines.job.connection import connect
from pipelines.job.learners import LearnerRanks
from pipelines.job.settings import engine_settings, turns
from pipelines.job.verifier import LastingVerifier
from pipelines.job.watch import Watch
from pipelines.planning.shape import refuse_unsplittable, shape_if_known
from pipelines.runs import interruption
from pipelines.runs.folder import RunDirectory

log = logging.getLogger(__name__)

# For engines to end their processes when the session ends; those that do not are killed.
_STOP_SECONDS = 10.0

_KINDS: dict[str, Kind] = {"rollout": "engine", "verifier": "verifier", "learner": "learner"}


class Session:
    """Actors of one job. Use as a context manager; parts start when they are first asked for."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config = config
        self.run = run
        self._started_ray = False
        self._waits = contextlib.ExitStack()
        self._watch = Watch(config)
        self._turns = turns(config, interruption.requested)
        self._starting = threading.Lock()
        """Held while a worker is started in the place of another, which no end of all workers must miss."""
        self._placement: Placement | None = None
        self._workers: list[NamedActor] = []
        self._model: str | None = None
        """What the workers were started on."""
        self._launched = 0.0
        """When they were, by ``time.monotonic``."""
        self._fleet: RolloutFleet | None = None
        self._verifier = LastingVerifier(lambda: self.config, self._start, self._placed, self._watch)
        self._learners = LearnerRanks(config, self._start, self._placed, self._watch, self.learner_lost, self._turns)
        self._weight_sync: WeightSync | None = None
        # Keyed by the run's folder: a run that was killed leaves its last weights here, and its successor clears them.
        digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:12]
        self.weights_directory = Path(config.cluster.weights_directory) / f"reasoning-reward-models-{digest}"

    @property
    def faults(self) -> Faults:
        """What died so far, and came back."""
        return self._watch.faults

    def metrics(self) -> dict[str, float]:
        """What the parts of the job did besides a step's work: restarts, and turns on devices that they share."""
        return self.faults.metrics() | self._turns.metrics()

    def __enter__(self) -> Self:
        self._waits.enter_context(interruption.ending_waits(self._learners.end))
        shutil.rmtree(self.weights_directory, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nothing is left behind, however often one asks for the end meanwhile.
        with self._waits, interruption.shielded():
            self.close()

    def connect(self) -> None:
        """Join the cluster, or start it; nothing else."""
        import ray

        if ray.is_initialized():
            return
        try:
            connect(self.config.cluster.address, self.config.cluster.ready_timeout, interruption.owns_process())
        except SystemExit as end:
            # What Ray's own handler of SIGTERM does while it starts.
            raise interruption.Interrupted(signal.SIGTERM) from end
        finally:
            # Afterwards that handler would end in an abort.
            interruption.install()
        self._started_ray = True

    def _reserved(self) -> Placement:
        if self._placement is None:
            self.connect()
            self._placement = reserved(self.config, self.run)
            self._warn_of_slow_types()
        return self._placement

    def _placed(self) -> Placement:
        """Where members belong, once every node that they need is there: those that are started again may lack one."""
        placement = self._reserved()
        placement.await_nodes(self.config.cluster.ready_timeout, log.warning)
        return placement

    def _warn_of_slow_types(self) -> None:
        if self.config.cluster.device != "cpu":
            return
        rollout, learner = self.config.rollout, self.config.learner
        said = [slow_dtype("rollout.dtype", rollout)]
        if learner.ranks:  # A job that only judges has none, whatever their type would be.
            said.append(slow_dtype("learner.dtype", learner))
        for warning in filter(None, said):
            log.warning(warning)

    def _start(
        self, kind: type, role: str, member: int, name: str, *arguments: Any, log: str, threads: int = 0, calls: int = 0
    ) -> NamedActor:
        """Start a member of a role where it belongs, without waiting for it; its last argument is where it logs.

        ``threads`` are OpenMP's, ``calls`` those that it works on at the same time; 0: what Ray takes.
        """
        import ray

        options = self._reserved().options(role, member) | ({"max_concurrency": calls} if calls else {})
        options["runtime_env"] = {"env_vars": environment(self.config, self.run, role, threads)}
        beside = {"concurrency_groups": {BESIDE: 1}} if role == "learner" else {}
        actor = ray.remote(max_restarts=0, **beside)(kind).options(**options)
        path = str(self.run.logs / f"{log}.log")
        return NamedActor(actor.remote(*arguments, path), name, path, _KINDS[role])

    def launch_rollouts(self, model: str) -> None:
        """Begin to start the engines on ``model`` without waiting, so that other parts start meanwhile.

        Engines that run already are left as they are.
        """
        if self._workers:
            return
        devices = self.config.rollout.tensor_parallel
        if devices > 1 and (shape := shape_if_known(model, self.config.model.shape)):
            refuse_unsplittable(shape, devices, model)
        self._model, self._launched = model, time.monotonic()
        self._workers = [self._start_worker(index) for index in range(self.config.rollout.workers)]

    def _start_worker(self, index: int) -> NamedActor:
        assert self._model is not None
        engine = engine_settings(self.config, self._model, index)
        return self._start(
            *(RolloutWorker, "rollout", index, f"rollout worker {index}", engine),
            log=f"rollout-{index}",
            threads=engine.threads,
            calls=1000,
        )

    def _restart_worker(self, workers: list[NamedActor], index: int, dead: NamedActor) -> NamedActor:
        self._watch.end_dead(dead)
        self._placed()
        with self._starting:
            if self._workers is not workers:
                raise RuntimeError(f"{dead.name} is restarted no more: the engines are being ended")
            workers[index] = self._start_worker(index)
            return workers[index]

    def _watch_worker(self, worker: NamedActor) -> None:
        assert self._fleet is not None
        self._watch.over_worker(worker, self._fleet.roster.lost)

    def learner_lost(self, rank: NamedActor, error: ActorFailed) -> None:
        """Engines may wait for its weights, while whoever would miss it waits for engines."""
        if self._fleet is not None:
            self._fleet.roster.learner_lost(rank, error)

    def rollouts(self, model: str | None = None) -> RolloutFleet:
        """The engines, warm.

        Args:
            model: what they must hold, as loaded from disk; engines that hold something else are started anew. None:
                those that were launched, whatever they hold: for weights to be published to, or to judge with what was.

        Raises:
            RuntimeError: no model was given and no engines were launched.

        """
        if model is not None:
            if self._workers and not (self._model == model and (self._fleet is None or self._fleet.as_loaded)):
                self._end_rollouts()
                self._turns.clear()
            self.launch_rollouts(model)
        if not self._workers:
            raise RuntimeError("no engines were launched, and no model was given to launch them with")
        if self._fleet is None:
            seconds = self.config.cluster.start_timeout
            restart = partial(self._restart_worker, self._workers)
            start = StartTime(seconds, self.config.cluster.stuck_after)
            revival = Revival(restart, self._watch_worker, self._watch.faults, start)
            fleet = RolloutFleet(self._workers, self.config.cluster.step_timeout, revival, self._turns)
            fleet.start(0, seconds)
            start.took(time.monotonic() - self._launched)
            self._fleet = fleet
            for worker in self._workers:
                self._watch_worker(worker)
        return self._fleet

    def verifier(self) -> NamedActor:
        """The reward verifier, which comes back where its process dies."""
        return self._verifier.ready()

    def learners(self) -> LearnerGroup:
        """Learner ranks, joined; a stage loads its own model into those of the stage before."""
        if self._turns.on_same_devices and self._workers:
            self.rollouts()  # Engines measure the devices when they start: they are alone on them then.
        return self._learners.joined()

    def end_dead_learners(self) -> None:
        """End what is left of a group of which a rank is dead."""
        self._learners.end_dead()
        self.release_learners()

    def weight_sync(self) -> WeightSync:
        """The way of new weights from the learners to the engines, both of which have been started."""
        if self._fleet is None or self._learners.group is None:
            raise RuntimeError("weights pass from learners to engines: start both first")
        if self._weight_sync is None:
            cluster, rollout = self.config.cluster, self.config.rollout
            directory = str(self.weights_directory) if cluster.weight_transfer == "file" else None
            self._weight_sync = WeightSync(
                self._learners.group,
                self._fleet,
                directory,
                rollout.dtype,
                rollout.tensor_parallel,
                cluster.step_timeout,
                bucket_bytes=max(1, int(cluster.weight_bucket_mib * 2**20)),
                rendezvous_timeout=cluster.rendezvous_timeout,
                turns=self._turns,
            )
        return self._weight_sync

    def release_learners(self) -> None:
        """End the learner ranks and free what they hold."""
        self._end_weight_sync()
        self._learners.end()
        self._learners.forget()

    def _end_rollouts(self) -> None:
        if self._fleet is not None:
            with contextlib.suppress(Exception):
                self._fleet.stop(_STOP_SECONDS)
        with self._starting:
            workers, self._workers = self._workers, []
        self._watch.end(workers)
        self._end_weight_sync()
        self._fleet = None

    def _end_weight_sync(self) -> None:
        if self._weight_sync is not None:
            self._weight_sync.close()
        self._weight_sync = None

    def close(self) -> None:
        """End every actor of this session, and the Ray cluster if it is ours."""
        import ray

        if ray.is_initialized():
            self._watch.close()
            self._end_rollouts()
            self.release_learners()
            self._verifier.end()
            if self._placement is not None:
                with contextlib.suppress(Exception):
                    self._placement.release()
                self._placement = None
            if self._started_ray:
                ray.shutdown()
                self._started_ray = False
        shutil.rmtree(self.weights_directory, ignore_errors=True)
