"""Deaths of actors that a test brings about."""

from __future__ import annotations

from typing import Any

import ray
from commands import wait_until


def kill_actor(handle: Any) -> None:
    """Kill an actor and wait for it: ``ray.kill`` returns at once, and until it works the actor may answer."""
    ray.kill(handle)
    wait_until(lambda: is_gone(handle), 60, "the death of an actor")


def is_gone(handle: Any) -> bool:
    """Whether an actor is dead."""
    try:
        ray.get(handle.__ray_ready__.remote(), timeout=60)
    except ray.exceptions.ActorUnavailableError:
        return False  # Its process ends, and Ray does not know why yet.
    except ray.exceptions.RayActorError:
        return True
    return False
