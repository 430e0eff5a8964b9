"""What an engine fails with, and the first cause that vLLM's processes give in their log."""

from __future__ import annotations

import re

from actors.causes import one_line
from actors.failures import Kind
from actors.logs import written_by_this_process

_OF_VLLM = re.compile(r"^(\(\S+ pid=\d+\)) ERROR ", re.MULTILINE)
_KILLED = re.compile(r"Worker proc \S+ died unexpectedly[^,]*")


class EngineError(RuntimeError):
    """The engine could not start, or a request or weights failed in it."""


class EngineDied(EngineError):
    """One of the engine's processes ended: no other answer will come."""

    kind: Kind = "engine"


class UpdateFailed(EngineError):
    """Weights could not be loaded: damaged on the way, or the machine refused something. Published again they may be.

    The engine writes nothing more until then, because what it holds may be of two versions.
    """

    kind: Kind = "request"


class UpdateFailedAgain(EngineError):
    """Weights could not be loaded twice in a row by an engine that has loaded others: another is needed."""

    kind: Kind = "engine"


def died() -> EngineDied:
    """The death of this process's engine, with the first cause that its log gives: others only follow from it."""
    written = written_by_this_process()
    first = _OF_VLLM.search(written)
    if first is None:
        return EngineDied("the engine has died, in one of its processes; its log says which and how")
    of_the_same = [line for line in written[first.start() :].splitlines() if line.startswith(f"{first[1]} ERROR ")]
    killed = _KILLED.search(of_the_same[0])
    cause = killed[0] if killed else one_line("\n".join(of_the_same))
    return EngineDied(f"the engine has died, in one of its processes; its log says {cause}")
