"""Waiting with a deadline: every wait says for what and on whom, and an actor's death is readable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from actors.errors import UserError

# When one rank dies, the others fail in their collectives, sometimes sooner: how long to wait for the better answer.
_GRACE_SECONDS = 2.0


class DeadlineExceeded(UserError, TimeoutError):
    """Something did not happen in time; names what and who was waited for."""


class ActorFailed(UserError, RuntimeError):
    """An actor raised or died; names it and the cause."""


def get(references: Sequence[Any], seconds: float, what: str, names: Sequence[str] | None = None) -> list[Any]:
    """Results of Ray references, in order, within ``seconds``; ``names`` says whose they are.

    The first failure ends the wait: with collectives, the others would only wait for the one that failed. An actor's
    death goes before another's error, which it may have caused.

    Raises:
        DeadlineExceeded: naming what, and those that had not answered.
        ActorFailed: naming what, the actor and the cause.

    """
    import ray
    from ray.exceptions import RayActorError

    names = names or [f"actor {index}" for index in range(len(references))]
    owners = dict(zip(references, names, strict=True))
    waiting = list(references)
    answered: dict[Any, Any] = {}
    deadline = time.monotonic() + seconds
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = ", ".join(owners[reference] for reference in waiting)
            raise DeadlineExceeded(f"waited {seconds:g} s for {what}; no answer from {late}")
        answer = _answer(ready[0])
        if isinstance(answer, Exception):
            failed = {ready[0]: answer}
            if waiting and not isinstance(answer, RayActorError):
                others, _ = ray.wait(waiting, num_returns=len(waiting), timeout=_GRACE_SECONDS)
                failed |= {other: error for other in others if isinstance(error := _answer(other), RayActorError)}
            culprit, error = list(failed.items())[-1]
            raise ActorFailed(f"{what}: {owners[culprit]} {_reason(error)}") from error
        answered[ready[0]] = answer
    return [answered[reference] for reference in references]


def _answer(reference: Any) -> Any:
    """What a finished reference holds: its value, or the error it ended with."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(reference, timeout=60.0)
    except RayError as error:
        return error


def _reason(error: Exception) -> str:
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError):
        return f"failed: {error.cause!r}"
    if isinstance(error, RayActorError):
        return f"died: {str(error).strip().splitlines()[-1]}"
    return f"failed: {error}"
