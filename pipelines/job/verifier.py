"""The reward verifier of a session: started when it is first asked for, and again where its process dies."""

from __future__ import annotations

from collections.abc import Callable

from actors.deadlines import NamedActor
from actors.placement import Placement
from actors.restarts import StartTime
from actors.verifier.actor import RewardVerifier
from actors.verifier.revived import RevivedVerifier
from pipelines.config import Config
from pipelines.job.settings import reward_functions, reward_rule
from pipelines.job.watch import Watch


class LastingVerifier:
    """One verifier for all stages of a session."""

    def __init__(
        self,
        config: Callable[[], Config],
        start: Callable[..., NamedActor],
        placed: Callable[[], Placement],
        watch: Watch,
    ) -> None:
        """``config`` is the session's, ``start`` its way to start a member of a role; ``placed`` is where members
        belong, once every node that they need is there."""
        self._config, self._start, self._placed, self._watch = config, start, placed, watch
        cluster = config().cluster
        self._start_time = StartTime(cluster.start_timeout, cluster.stuck_after)
        self._actor: NamedActor | None = None
        self._shown: NamedActor | None = None
        """As callers have it."""

    def ready(self) -> NamedActor:
        """The verifier, which comes back where its process dies."""
        if self._shown is None:

            def over(verifier: NamedActor) -> None:
                self._watch.over_verifier(verifier, lambda: scoring.is_awaited)

            scoring = RevivedVerifier(self._started(), self._restarted, over, self._watch.faults)
            over(scoring.actor)
            self._shown = NamedActor(scoring, scoring.actor.name, scoring.actor.log)
        return self._shown

    def _started(self) -> NamedActor:
        rule, functions = reward_rule(self._config()), reward_functions(self._config())
        self._actor = self._start(RewardVerifier, "verifier", 0, "the reward verifier", rule, functions, log="verifier")
        self._start_time.wait([self._actor.handle.ready.remote()], "a reward verifier", [self._actor])
        return self._actor

    def _restarted(self, dead: NamedActor) -> NamedActor:
        # One that did not come up has taken the place of that which died.
        for actor in {id(actor): actor for actor in (dead, self._actor) if actor is not None}.values():
            self._watch.end_dead(actor)
        self._placed()
        return self._started()

    def end(self) -> None:
        """End it; the next to ask gets another."""
        if self._actor is not None:
            self._watch.end([self._actor])
            self._actor = self._shown = None
