"""The verifier as its callers have it: one that dies is started again, and what it had not scored is scored again.

Scoring is a function of what is sent, so a trace that is scored twice is scored alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actors.deadlines import ActorFailed, NamedActor, failure, settled
from actors.restarts import Fault, Faults


class RevivedVerifier:
    """Has the methods of the verifier's Ray actor that score, called as they are: ``score.remote(...)`` is awaited."""

    def __init__(
        self,
        actor: NamedActor,
        restart: Callable[[NamedActor], NamedActor],
        at_work: Callable[[NamedActor], None],
        faults: Faults,
    ) -> None:
        """``restart`` ends what is left of an actor and starts another; returns once that one is ready.

        ``at_work`` is called with one that was brought back.
        """
        self.actor = actor
        self.score = _Method(self, "score")
        self.compare = _Method(self, "compare")
        self._restart = restart
        self._at_work = at_work
        self._faults = faults
        self._restarting: asyncio.Task[None] | None = None
        self._awaited = 0

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for an answer, and so learns of a death."""
        return self._awaited > 0

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The answer of the actor, or of one that was started in its place."""
        self._awaited += 1
        try:
            return await self._answer(method, arguments)
        finally:
            self._awaited -= 1

    async def _answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        from ray.exceptions import RayActorError

        while True:
            actor = self.actor
            try:
                return await getattr(actor.handle, method).remote(*arguments)
            except RayActorError as error:
                # Of all calls that fail with it, the first has another started, and all wait for that one.
                if self._restarting is None or self._restarting.done():
                    if self.actor is not actor:
                        continue
                    died = failure(error, "rewards", actor)
                    self._restarting = asyncio.create_task(self._bring_back(actor, died))
                await asyncio.shield(self._restarting)

    async def _bring_back(self, actor: NamedActor, error: ActorFailed) -> None:
        fault: Fault | None = None
        while fault is None or fault.back is None:
            error = await asyncio.to_thread(settled, error)
            then = "it is restarted and scores again"
            fault = self._faults.noticed("verifier", actor.name, error.why, then, node=error.node)
            try:
                actor = await asyncio.to_thread(self._restart, actor)
            except ActorFailed as failed:
                if failed.kind is None:
                    raise
                error = failed
                continue
            self.actor = actor
            self._at_work(actor)
            self._faults.back(fault)


class _Method:
    def __init__(self, verifier: RevivedVerifier, name: str) -> None:
        self._verifier = verifier
        self._name = name

    def remote(self, *arguments: Any) -> Any:
        """Something to await, as what Ray returns is."""
        return self._verifier.call(self._name, arguments)
