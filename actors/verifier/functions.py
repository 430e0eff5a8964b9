"""Users' reward functions, each in processes of its own that are killed when a deadline passes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.verifier.function_process import FunctionError
from actors.verifier.judged import Judged

_LINE_LIMIT = 64 * 2**20
_START_SECONDS = 60.0
"""For an interpreter to start and import the function's module, which may be large."""
_END_SECONDS = 5.0
_HARMLESS = ("error", "not_finite", "wrong_type", "wrong_length")


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A user's function and its bounds."""

    path: str
    """``package.module.name``"""
    sees: str = "trace"
    """``trace``: called with a :class:`Judged`, returns a number. ``group``: with a list of all, returns as many."""
    deadline: float = 10.0
    """Seconds per call."""
    memory_gib: float = 2.0
    """A process may allocate this much; 0: no limit."""
    processes: int = 1
    """Calls at the same time."""


class FunctionPool:
    """The processes of one function. Each has one call at a time; a process that failed a deadline is killed.

    A call's deadline starts when a process is free for it, so a queue is no failure. What a call started is killed with
    it: every process leads a group of its own.
    """

    def __init__(self, function: RewardFunction) -> None:
        self.function = function
        self._free: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self._processes: set[asyncio.subprocess.Process] = set()
        for _ in range(function.processes):
            # Started when first needed.
            self._free.put_nowait(None)

    async def check(self) -> None:
        """Start one process.

        Raises:
            FunctionError: the function cannot be loaded.

        """
        process = await self._free.get()
        try:
            process = process or await self._start()
        finally:
            self._free.put_nowait(process)

    async def call(self, judged: Sequence[Judged]) -> list[float]:
        """Rewards, one per trace.

        Raises:
            FunctionError: with a cause: ``error``, ``timeout``, ``memory``, ``died``, ``not_finite``, ``wrong_type``,
                ``wrong_length`` or ``load``.

        """
        process = await self._free.get()
        try:
            process = process or await self._start()
            request = json.dumps([asdict(item) for item in judged]) + "\n"
            answer = await self._ask(process, request, self.function.deadline)
            if "cause" in answer:
                raise FunctionError(answer["cause"], answer["detail"])
        except BaseException as error:
            # A function that raised can be called again. Otherwise, and when this call is cancelled, the process may be
            # busy still or hold what it allocated: the next call gets a fresh one.
            if process is not None and getattr(error, "cause", None) not in _HARMLESS:
                await self._end(process)
                process = None
            raise
        finally:
            self._free.put_nowait(process)
        return answer["values"]

    async def _start(self) -> asyncio.subprocess.Process:
        function = self.function
        command = ("-m", "actors.verifier.function_process", function.path, function.sees)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            str(int(function.memory_gib * 2**30)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])},
        )
        self._processes.add(process)
        try:
            answer = await self._ask(process, "", _START_SECONDS)
            if "cause" in answer:
                raise FunctionError(answer["cause"], f"{function.path} cannot be loaded: {answer['detail']}")
        except BaseException:
            await self._end(process)
            raise
        return process

    async def _ask(self, process: asyncio.subprocess.Process, request: str, seconds: float) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                if request:
                    process.stdin.write(request.encode())
                    await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise FunctionError("timeout", f"{self.function.path} gave no answer in {seconds:g} s") from error
        except ConnectionError as error:
            raise FunctionError("died", f"the process of {self.function.path} ended") from error
        if not line.endswith(b"\n"):
            raise FunctionError("died", f"the process of {self.function.path} ended with status {await process.wait()}")
        return json.loads(line)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process and what it started, and see it end."""
        self._processes.discard(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Reads to the end, so that the loop lets go of the pipes. What left the process's group may hold them open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.communicate()

    async def close(self) -> None:
        """Kill every process and see it end."""
        for process in list(self._processes):
            await self._end(process)
