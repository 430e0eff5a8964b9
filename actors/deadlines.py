"""Waiting with a deadline: every wait says for what and on whom, and an actor's death is readable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.causes import is_defect, lost_peer, node_died, reason
from actors.errors import UserError
from actors.failures import Kind, kind_of
from actors.logs import write_stacks

# When one rank dies, the others fail in their collectives, sometimes sooner: how long to wait for the better answer.
_GRACE_SECONDS = 2.0
ANSWER_SECONDS = 30.0
"""How much longer than an actor's own deadline its caller waits, for the error that names the cause."""
# That a machine is gone, and not only slow, Ray knows after its health checks: half a minute, and a minute at most.
_SETTLED_SECONDS = 90.0
# How often Ray is asked for it.
_LOOK_SECONDS = 2.0
# For the nodes to have late actors write their stacks; a node that does not answer is left out.
_STACKS_SECONDS = 20.0


class DeadlineExceeded(UserError, TimeoutError):
    """Something did not happen in time; names what and who was waited for."""

    late: Sequence[NamedActor] = ()
    """Who had not answered."""


class ActorFailed(UserError, RuntimeError):
    """An actor raised or died; names it and the cause."""

    kind: Kind | None = None
    """What failed, where the error is one that a run can go on from."""
    actor: NamedActor | None = None
    node: str | None = None
    """Ray's id of the node whose death it was, ``""`` where Ray named none; None: of no node."""
    is_unsettled = False
    """Whether the actor cannot be reached, and it is not known yet whether it, or its node, has died."""

    @property
    def why(self) -> str:
        """What happened to the actor, without its name, which messages have."""
        text = str(self)
        return text.partition(f"{self.actor} ")[2] or f"died: {text}"


@dataclass(frozen=True, slots=True)
class NamedActor:
    """A Ray actor, what messages call it, and where its output goes."""

    handle: Any
    name: str
    log: str | None = None
    kind: Kind | None = None
    """What its death is a failure of."""

    def __str__(self) -> str:
        return f"{self.name} (log: {self.log})" if self.log else self.name


def get(references: Sequence[Any], seconds: float, what: str, actors: Sequence[NamedActor]) -> list[Any]:
    """Results of Ray references, in order, within ``seconds``; each is of the actor in the same place.

    The first failure ends the wait: with collectives, the others would only wait for the one that failed. An actor's
    death goes before another's error, which it may have caused.

    Raises:
        DeadlineExceeded: naming what, and those that had not answered, whose logs then hold their stacks.
        ActorFailed: naming what, the actor and the cause.

    """
    import ray
    from ray.exceptions import RayActorError

    owners = dict(zip(references, actors, strict=True))
    waiting = list(references)
    answered: dict[Any, Any] = {}
    deadline = time.monotonic() + seconds
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise exceeded(seconds, what, [owners[reference] for reference in waiting])
        answer = _answer(ready[0])
        if isinstance(answer, Exception):
            culprit, error = ready[0], answer
            if waiting and not isinstance(answer, RayActorError):
                grace = _SETTLED_SECONDS if lost_peer(answer) else _GRACE_SECONDS
                culprit, error = _death(waiting, owners, grace) or (culprit, error)
            raise failure(error, what, owners[culprit]) from error
        answered[ready[0]] = answer
    return [answered[reference] for reference in references]


def _death(waiting: list[Any], owners: dict[Any, NamedActor], seconds: float) -> tuple[Any, Exception] | None:
    """The first of these answers that tells of a death, an actor's or that of what it works with, and that error; None
    where none comes within ``seconds``."""
    import ray
    from ray.exceptions import RayActorError, RayError

    deadline = time.monotonic() + seconds
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        error = _answer(ready[0])
        if isinstance(error, RayActorError) or (isinstance(error, RayError) and _kind(error, owners[ready[0]])):
            return ready[0], error
    return None


def settled(failed: ActorFailed, seconds: float = _SETTLED_SECONDS) -> ActorFailed:
    """What became of an actor that cannot be reached, as soon as Ray knows: it died, or its node did.

    ``failed`` itself where that was known, where the actor answers again, and where ``seconds`` are over.
    """
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

    actor = failed.actor
    if actor is None or not failed.is_unsettled:
        return failed
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        began = time.monotonic()
        try:
            ray.get(actor.handle.__ray_ready__.remote(), timeout=_LOOK_SECONDS)
        except (ActorUnavailableError, GetTimeoutError):
            time.sleep(max(0.0, began + _LOOK_SECONDS - time.monotonic()))
        except RayActorError as error:
            return failure(error, str(failed).partition(f": {actor} ")[0], actor)
        else:
            return failed
    return failed


async def wait(answer: Awaitable[Any], seconds: float, what: str, actor: NamedActor) -> Any:
    """One answer of an actor, in an event loop; errors as in :func:`get`, others pass as they are."""
    from ray.exceptions import RayError

    try:
        return await asyncio.wait_for(answer, seconds)
    except RayError as error:  # Before the next: an actor's own TimeoutError is both.
        raise failure(error, what, actor) from error
    except TimeoutError as error:
        raise await asyncio.to_thread(exceeded, seconds, what, [actor]) from error


def exceeded(seconds: float, what: str, actors: Sequence[NamedActor]) -> DeadlineExceeded:
    """The error of a wait that ran out. Those waited for are told to write their stacks into their logs first."""
    written = _stacks({actor.log for actor in actors if actor.log})
    late = ", ".join(f"{actor}, now with its stacks" if actor.log in written else str(actor) for actor in actors)
    error = DeadlineExceeded(f"waited {seconds:g} s for {what}; no answer from {late}")
    error.late = actors
    return error


def failure(error: Exception, what: str, actor: NamedActor) -> ActorFailed:
    """The error of an actor that raised or died instead of an answer."""
    from ray.exceptions import ActorUnavailableError

    failed = ActorFailed(f"{what}: {actor} {reason(error, actor.log)}")
    failed.is_defect = is_defect(error)
    failed.kind, failed.actor = _kind(error, actor), actor
    failed.is_unsettled = isinstance(error, ActorUnavailableError)
    if failed.kind == "node":
        failed.node = node_died(str(error))
    return failed


def _kind(error: Exception, actor: NamedActor) -> Kind | None:
    """What failed: as the error itself says, or by whose death it is."""
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayActorError):
        return actor.kind and (actor.kind if node_died(str(error)) is None else "node")
    while isinstance(error, RayTaskError):
        error = error.cause
    return kind_of(error)


def _stacks(logs: set[str]) -> set[str]:
    """The logs that their processes added their stacks to, on whichever node they run."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    written = set(write_stacks(sorted(logs)))
    if not (elsewhere := sorted(logs - written)):
        return written
    here = ray.get_runtime_context().get_node_id()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    task = ray.remote(num_cpus=0, max_retries=0)(write_stacks)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(elsewhere)
        for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_STACKS_SECONDS) if asked else ([], [])
    for reference in answered:
        if not isinstance(found := _answer(reference), RayError):
            written.update(found)
    return written


def _answer(reference: Any) -> Any:
    """What a finished reference holds: its value, or the error it ended with."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference, timeout=60.0)
    except RayError as error:
        return error
