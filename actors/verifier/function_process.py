"""The process a user's reward function runs in: requests in as JSON lines, one answer line each. Killed from outside.

Started by ``functions.py``. Standard library only, so that it starts at once and its memory limit is the function's.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import math
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from actors.verifier.judged import Judged


class FunctionError(Exception):
    """A function gave no usable reward; ``cause`` is short and countable."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def load(path: str) -> Callable[..., Any]:
    """The function at ``package.module.name``.

    Raises:
        FunctionError: no such module or name, or what is there cannot be called.

    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise FunctionError("load", f"{type(error).__name__}: {error}") from error
    if not callable(function):
        raise FunctionError("load", f"{path} is a {type(function).__name__}, not a function")
    return function


def call(function: Callable[..., Any], judged: Sequence[Judged], sees: str) -> list[float]:
    """One number per trace; ``sees`` says whether the function takes a trace or a list of all traces of a group.

    Raises:
        FunctionError: it raised, or returned something else.

    """
    try:
        result = function(judged[0]) if sees == "trace" else function(list(judged))
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
    except MemoryError as error:
        raise FunctionError("memory", "the function exceeded verifier.functions.*.memory_gib") from error
    except Exception as error:
        raise FunctionError("error", f"{type(error).__name__}: {error}") from error
    values = [result] if sees == "trace" else result
    if not isinstance(values, (list, tuple)):
        raise FunctionError("wrong_type", f"a list of {len(judged)} numbers expected, got {type(result).__name__}")
    if len(values) != len(judged):
        raise FunctionError("wrong_length", f"{len(judged)} numbers expected, one per trace, got {len(values)}")
    return [_number(value) for value in values]


async def _awaited(result: Any) -> Any:
    return await result


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise FunctionError("wrong_type", "a number expected, got str")
    try:
        # NumPy's numbers and booleans are numbers as well.
        number = float(value)
    except (TypeError, ValueError) as error:
        raise FunctionError("wrong_type", f"a number expected, got {type(value).__name__}") from error
    if not math.isfinite(number):
        raise FunctionError("not_finite", f"a finite number expected, got {number}")
    return number


def _read(requests: queue.SimpleQueue[str]) -> None:
    """Queue requests; when whoever asks is gone, end this process and what it started, even in the middle of a call."""
    for line in sys.stdin:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)


def main(path: str, sees: str, memory_bytes: int) -> None:
    """Answer requests until the input ends. The process must lead a group of its own."""
    # The function may print: its output goes where errors go, the answers to a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    try:
        function = load(path)
    except FunctionError as error:
        answer(cause=error.cause, detail=str(error))
        return
    answer(ready=True)
    while True:
        line = requests.get()
        try:
            answer(values=call(function, [Judged(**row) for row in json.loads(line)], sees))
        except FunctionError as error:
            answer(cause=error.cause, detail=str(error)[:500])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
