"""The learner ranks of a session: started together, ended together, and restarted with memory that outlives them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from actors.deadlines import NamedActor
from actors.learner.actor import Learner
from actors.learner.group import LearnerGroup
from actors.learner.holder import THREADS, CopyHolder
from actors.learner.holders import Holders
from actors.learner.lasting import Revival
from actors.monitor import Lost
from actors.placement import Placement
from actors.turns import Together
from pipelines.config import Config
from pipelines.job.settings import learner_settings
from pipelines.job.watch import Watch

# A warning of ours is shown on the terminal, and in the report.
log = logging.getLogger(__name__)


class LearnerRanks:
    """Ranks that are started when they are first asked for, and may be ended and asked for again."""

    def __init__(
        self,
        config: Config,
        start: Callable[..., NamedActor],
        placed: Callable[[], Placement],
        watch: Watch,
        lost: Lost,
        turns: Together,
    ) -> None:
        """``start`` is the session's way to start a member of a role; ``placed`` is where members belong, once every
        node that they need is there; ``lost`` is told of a rank's death."""
        self._lost = lost
        self._config = config
        self._start = start
        self._placed = placed
        self._watch = watch
        self._turns = turns
        self.group: LearnerGroup | None = None
        """They, from the moment that they are started."""
        self._actors: list[NamedActor] = []
        self._holders: Holders | None = None
        self._is_ending = False
        self._starting = threading.Lock()
        """Held while ranks are started in the place of others, which no end of all of them must miss."""

    def joined(self) -> LearnerGroup:
        """The ranks, joined; a stage loads its own model into those of the stage before."""
        if self.group is None:
            learner, cluster = self._config.learner, self._config.cluster
            self._placed()
            self._actors = self._started()
            # A copy is made while ranks go on, which on shared devices is when they leave.
            copied = learner.peer_copy and not self._turns.on_same_devices
            revival = self._revival() if copied else None
            self.group = LearnerGroup(
                *(self._actors, learner.micro_batch_tokens, cluster.step_timeout, learner.packing),
                *(revival, self._turns),
            )
            self.group.join(cluster.start_timeout, cluster.rendezvous_timeout)
            self._watch.over_learners(self.group.actors, self._lost, self._are_awaited)
        return self.group

    def _are_awaited(self) -> bool:
        return self.group is not None and self.group.ranks.is_awaited

    def _started(self) -> list[NamedActor]:
        ranks, settings = self._config.learner.ranks, learner_settings(self._config)
        return [
            self._start(
                Learner,
                "learner",
                rank,
                f"learner rank {rank}",
                *(rank, ranks, settings),
                log=f"learner-{rank}",
                threads=settings.threads,
            )
            for rank in range(ranks)
        ]

    def _revival(self) -> Revival:
        learner = self._config.learner
        self._holders = Holders(learner.ranks, self._holder, learner.copies_on_other_nodes)
        return Revival(self._restarted, lambda: self._is_ending, self._holders, self._watch.faults, log.warning)

    def _holder(self, rank: int) -> NamedActor:
        """Who holds a rank's copies, on the rank's node, without anything of its own."""
        import ray

        options = self._placed().options("learner", rank) | {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0}
        holder = ray.remote(CopyHolder).options(max_concurrency=THREADS, **options).remote()
        return NamedActor(holder, f"who holds the copies of learner rank {rank}")

    def _restarted(self) -> list[NamedActor] | None:
        """Others in the place of the ranks, without waiting for them; None where all are being ended."""
        self.end_dead()
        self._placed()
        with self._starting:
            if self._is_ending:
                return None
            self._actors = self._started()
            self._watch.over_learners(self._actors, self._lost, self._are_awaited)
            return self._actors

    def end(self) -> None:
        """End the actors, for which threads of the driver may wait while they train, save or publish."""
        with self._starting:
            self._is_ending = True
        self._watch.end([*self._actors, *(self._holders.there() if self._holders else [])])

    def end_dead(self) -> None:
        """End what is left of ranks of which one is dead: the others wait for it, and nobody waits for them."""
        for actor in self._actors:
            self._watch.end_dead(actor)

    def forget(self) -> None:
        """The next to ask gets other ranks."""
        self.group, self._actors, self._holders, self._is_ending = None, [], None, False
