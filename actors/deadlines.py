"""Waiting with a deadline: every wait says for what and on whom, and an actor's death is readable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class DeadlineExceeded(TimeoutError):
    """Something did not happen in time; names what and who was waited for."""


class ActorFailed(RuntimeError):
    """An actor raised or died; names it and the cause."""


def get(references: Sequence[Any], seconds: float, what: str, names: Sequence[str] | None = None) -> list[Any]:
    """Results of Ray references, in order, within ``seconds``; ``names`` says whose they are.

    The first failure ends the wait at once: with collectives, the others would only wait for the one that failed.

    Raises:
        DeadlineExceeded: naming what, and those that had not answered.
        ActorFailed: naming what, the actor and the cause.

    """
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError

    names = names or [f"actor {index}" for index in range(len(references))]
    owners = dict(zip(references, names, strict=True))
    waiting = list(references)
    answered: dict[Any, Any] = {}
    import time

    deadline = time.monotonic() + seconds
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = ", ".join(owners[reference] for reference in waiting)
            raise DeadlineExceeded(f"waited {seconds:g} s for {what}; no answer from {late}")
        try:
            answered[ready[0]] = ray.get(ready[0], timeout=max(1.0, deadline - time.monotonic()))
        except RayTaskError as error:
            raise ActorFailed(f"{what}: {owners[ready[0]]} failed: {error.cause!r}") from error
        except RayActorError as error:
            raise ActorFailed(f"{what}: {owners[ready[0]]} died: {str(error).strip().splitlines()[-1]}") from error
        except RayError as error:
            raise ActorFailed(f"{what}: {owners[ready[0]]}: {error}") from error
    return [answered[reference] for reference in references]
