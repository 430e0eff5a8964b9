"""What an engine fails with, and the first cause that vLLM's processes give in their log."""

from __future__ import annotations

import re

from actors.failures import Kind
from actors.logs import first_said

# Of a line that vLLM's processes write of what ended them: how Python names an error at a traceback's end, or who died.
_CAUSE = re.compile(
    r"^\(\S+ pid=\d+\) ERROR .*?\] ((?:\w+\.)*[A-Z]\w*(?:Error|Exception)\b.*|Worker proc \S+ died unexpectedly[^,]*)"
)


class EngineError(RuntimeError):
    """The engine could not start, or a request or weights failed in it."""


class EngineDied(EngineError):
    """One of the engine's processes ended: no other answer will come."""

    kind: Kind = "engine"


def died() -> EngineDied:
    """The death of this process's engine, with its cause where the log names one."""
    cause = first_said(_CAUSE)
    return EngineDied(f"the engine has died, in one of its processes; its log says {cause or 'which and how'}")
