"""The learner ranks of a session: started together, ended together."""

from __future__ import annotations

from collections.abc import Callable

from actors.deadlines import NamedActor
from actors.learner.actor import Learner
from actors.learner.group import LearnerGroup
from actors.monitor import Lost
from pipelines.config import Config
from pipelines.job.settings import learner_settings
from pipelines.job.watch import Watch


class LearnerRanks:
    """Ranks that are started when they are first asked for, and may be ended and asked for again."""

    def __init__(self, config: Config, start: Callable[..., NamedActor], watch: Watch, lost: Lost) -> None:
        """``start`` is the session's way to start a member of a role; ``lost`` is told of a rank's death."""
        self._lost = lost
        self._config = config
        self._start = start
        self._watch = watch
        self.group: LearnerGroup | None = None
        """They, from the moment that they are started."""

    def joined(self) -> LearnerGroup:
        """The ranks, joined; a stage loads its own model into those of the stage before."""
        if self.group is None:
            learner, cluster = self._config.learner, self._config.cluster
            self.group = LearnerGroup(
                self._started(), learner.micro_batch_tokens, cluster.step_timeout, learner.packing
            )
            self.group.join(cluster.start_timeout, cluster.rendezvous_timeout)
            self._watch.over_learners(self.group.actors, self._lost)
        return self.group

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

    def end(self) -> None:
        """End the actors, for which threads of the driver may wait while they train, save or publish."""
        if self.group is not None:
            self._watch.end(self.group.actors)

    def end_dead(self) -> None:
        """End what is left of a group of which a rank is dead: the others wait for it, and nobody waits for them."""
        for actor in self.group.actors if self.group is not None else ():
            self._watch.end_dead(actor)

    def forget(self) -> None:
        """The next to ask gets other ranks."""
        self.group = None
