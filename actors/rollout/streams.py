"""One call for traces: the streams of several workers as one, which outlives a worker that dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeGuard

import numpy as np

from actors.deadlines import ActorFailed, NamedActor, wait
from actors.failures import SUSPECT_DEATHS, answer_to
from actors.messages import Added, GenerationFailure, Prompt, Sampling, Trace
from actors.rollout.asked import Asked, Wanted, set_aside
from actors.rollout.roster import Roster

Arrived = list[Added | Trace | GenerationFailure]


@dataclass(slots=True)
class Traffic:
    """What all calls share: which workers there are, and what they have to do."""

    roster: Roster
    timeout: float
    """Seconds for the next trace of a worker."""
    in_flight: list[int]
    """Traces each worker still owes."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Uid of a prompt -> how often an engine died while it owed a trace of it."""
    one_suspect: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an engine answers a prompt that may be what kills engines: with one at a time a death tells which."""


@dataclass(slots=True)
class _Stream:
    worker: NamedActor
    index: int
    reader: asyncio.Task[None]
    is_alone: bool


class Call:
    """One call; see :meth:`actors.rollout.fleet.RolloutFleet.generate`, and ``watch`` there."""

    def __init__(self, traffic: Traffic, sampling: Sampling, watched: bool = False) -> None:
        self._traffic = traffic
        self._sampling = sampling
        self._watched = watched
        self._asked = Asked()
        self._numbers = count()
        self._streams: dict[int, _Stream] = {}
        self._suspects: set[asyncio.Task[None]] = set()
        self._merged: asyncio.Queue[tuple[int | None, Arrived | Exception | None]] = asyncio.Queue()
        """Stream and what it brought; at its end None, or the error that ended it. Without a stream: an error of a
        suspect that could not be sent, or None where one has ended."""

    async def items(self, prompts: Sequence[Prompt]) -> AsyncIterator[Arrived]:
        """What arrives, in lists as it comes, until every sample of every prompt has ended once."""
        try:
            await self._send([Wanted(prompt, tuple(range(self._sampling.samples))) for prompt in prompts])
            while self._streams or self._suspects:
                number, item = await self._merged.get()
                if number is None:
                    if item is not None:
                        raise item  # type: ignore[misc]
                elif isinstance(item, list):
                    if final := await self._arrived(number, item):
                        yield final
                elif failures := await self._ended(number, item):
                    yield failures
        finally:
            for suspect in self._suspects:
                suspect.cancel()
            for stream_number, stream in self._streams.items():
                stream.reader.cancel()
                # What streams that were given up never brought.
                self._traffic.in_flight[stream.index] -= self._asked.owes(stream_number)

    async def _send(self, wanted: Sequence[Wanted]) -> None:
        present = await self._traffic.roster.some_present()
        shares = shares_of(wanted, [self._traffic.in_flight[index] for index in present])
        for index, share in zip(present, shares, strict=True):
            if share:
                self._begin(index, share)

    def _begin(self, index: int, share: Sequence[Wanted], is_alone: bool = False) -> asyncio.Task[None]:
        number, worker = next(self._numbers), self._traffic.roster.workers[index]
        self._asked.give(number, share)
        self._traffic.in_flight[index] += self._asked.owes(number)
        reader = asyncio.create_task(self._read(number, worker, share))
        self._streams[number] = _Stream(worker, index, reader, is_alone)
        return reader

    async def _alone(self, suspect: Wanted) -> None:
        """Send a suspect when no other is under way."""
        end: Exception | None = None
        try:
            async with self._traffic.one_suspect:
                present = await self._traffic.roster.some_present()
                await self._begin(min(present, key=self._traffic.in_flight.__getitem__), [suspect], is_alone=True)
        except Exception as error:
            end = error
        self._suspects.discard(asyncio.current_task())  # type: ignore[arg-type]
        self._merged.put_nowait((None, end))

    async def _arrived(self, number: int, items: Arrived) -> Arrived:
        before = self._asked.owes(number)
        final, again = self._asked.arrived(number, items, once=self._watched)
        self._traffic.in_flight[self._streams[number].index] -= before - self._asked.owes(number)
        if again:
            await self._send(again)
        return final

    async def _ended(self, number: int, error: Arrived | Exception | None) -> Arrived:
        """A stream ended. Where its worker died, what it owed is asked of others; returns what is given up.

        Raises:
            Exception: the stream's error, if it is another, or nobody can be restarted.
            RuntimeError: it ended without an error, and something is missing.

        """
        traffic, stream = self._traffic, self._streams.pop(number)
        traffic.in_flight[stream.index] -= self._asked.owes(number)
        owed = self._asked.ended(number)
        if not isinstance(error, Exception):
            if owed:
                raise RuntimeError(
                    f"{stream.worker} said it was done and owes {owed[0].samples} of {owed[0].prompt.uid}"
                )
            return []
        if self._watched or not traffic.roster.can_restart or not _is_death(error):
            raise error
        traffic.roster.lost(stream.worker, error)
        given_up: Arrived = []
        others: list[Wanted] = []
        for wanted in owed:
            uid = wanted.prompt.uid
            traffic.deaths[uid] += 1
            deaths = traffic.deaths[uid]
            if stream.is_alone and answer_to("engine", deaths) == "set its prompt aside":
                given_up += set_aside(wanted, deaths)
            elif deaths >= SUSPECT_DEATHS:
                self._suspects.add(asyncio.create_task(self._alone(wanted)))
            else:
                others.append(wanted)
        if others:
            await self._send(others)
        return given_up

    async def _read(self, number: int, worker: NamedActor, share: Sequence[Wanted]) -> None:
        """Move one worker's stream into the merged one; ends with None, or with the error that ended it, whatever that
        is: the reader of the merged stream waits for one of them.
        """
        import ray

        what, end = f"a trace of {len(share)} prompts", None
        prompts, numbers = [item.prompt for item in share], [item.samples for item in share]
        whole = tuple(range(self._sampling.samples))
        arguments = () if all(samples == whole for samples in numbers) else (numbers,)
        stream: Any = None
        try:
            method = worker.handle.watch if self._watched else worker.handle.generate
            stream = method.options(num_returns="streaming").remote(prompts, self._sampling, *arguments)
            while True:
                try:
                    reference = await wait(anext(stream), self._traffic.timeout, what, worker)
                except StopAsyncIteration:
                    break
                self._merged.put_nowait((number, await wait(reference, self._traffic.timeout, what, worker)))
        except asyncio.CancelledError:
            # Nobody reads the rest.
            ray.cancel(stream)
            raise
        except Exception as error:
            end = error
        self._merged.put_nowait((number, end))


def _is_death(error: Exception) -> TypeGuard[ActorFailed]:
    return isinstance(error, ActorFailed) and error.kind in ("engine", "node")


def shares_of(wanted: Sequence[Wanted], in_flight: Sequence[int]) -> list[list[Wanted]]:
    """A share for each worker: in order, to whoever owes fewest traces by then, prompts of equal tokens to one."""
    owed = list(in_flight)
    holders: dict[bytes, int] = {}
    shares: list[list[Wanted]] = [[] for _ in owed]
    for item in wanted:
        tokens = np.asarray(item.prompt.token_ids, np.int32).tobytes()
        worker = holders.setdefault(tokens, owed.index(min(owed)))
        shares[worker].append(item)
        owed[worker] += len(item.samples)
    return shares
