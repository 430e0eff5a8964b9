"""What a training loop got from engines since its last checkpoint, on disk: none of it is generated again.

Two kinds of records: an item, when it is complete; and a step, when it is trained on and published, with its batch and
what supplies the next. Steps that are recorded without a gap from the checkpoint on are made again from their batches.
Then come the items that were complete and not trained on: no token of theirs is newer than the weights of the step that
goes on, and they are the first to be taken, so none is older than it might have been.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from actors.causes import one_line
from actors.learner.manifest import list_checkpoints
from actors.messages import ScoredGroup
from pipelines.loop.rollouts import RolloutBatch, ScoredItem
from pipelines.runs.folder import RunDirectory

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<cqqQQI")
"""Before each record: its kind, the step or the item's position, the newest version that wrote a token of it, its bytes
as they are in the file and without compression, and a checksum of the former."""
_STEP, _ITEM = b"s", b"i"

Place = tuple[int, int]
"""Of a group: the position of its item in the stream of prompts, and its index within it."""


@dataclass(frozen=True, slots=True)
class _Record:
    """Where something is: it is read when it is needed, for a journal may be larger than memory."""

    kind: bytes
    number: int
    version: int
    file: Path
    begin: int
    packed: int
    plain: int
    checksum: int

    def read(self) -> Any:
        """What was written.

        Raises:
            ValueError: it is not what was written.

        """
        import pyarrow as pa

        with self.file.open("rb") as records:
            records.seek(self.begin)
            packed = records.read(self.packed)
        if zlib.crc32(packed) != self.checksum:
            raise ValueError("its checksum is wrong")
        return pickle.loads(pa.Codec("zstd").decompress(packed, self.plain, asbytes=True))


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that was trained on."""

    batch: RolloutBatch
    """Without its groups."""
    groups: tuple[Place | ScoredGroup, ...]
    """Those of items by their places; refills are here themselves."""
    supply: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step that is made again; all of its batch is there."""

    step: _Step
    items: Mapping[int, _Record]

    async def portions(self, tokens: float) -> AsyncIterator[list[ScoredGroup]]:
        """None: nothing is waited for."""
        nothing: tuple[list[ScoredGroup], ...] = ()
        for portion in nothing:
            yield portion

    async def whole(self) -> RolloutBatch:
        """The batch as it was, without the time that it took."""
        return await asyncio.to_thread(self._whole)

    def _whole(self) -> RolloutBatch:
        places = [group for group in self.step.groups if not isinstance(group, ScoredGroup)]
        items: dict[int, ScoredItem] = {position: self.items[position].read() for position in {at for at, _ in places}}
        groups = tuple(
            group if isinstance(group, ScoredGroup) else items[group[0]].groups[group[1]] for group in self.step.groups
        )
        return replace(self.step.batch, groups=groups, generate_seconds=0.0, verify_seconds=0.0)


def open_journal(
    run: RunDirectory, stage: str, first: int, supply: Mapping[str, Any] | None, staleness: int
) -> Journal:
    """The journal of a stage of a run; see :class:`Journal`."""

    def saved() -> int:
        there = list_checkpoints(run.checkpoints(stage))
        return there[-1][0] if there else 0

    return Journal(run.journal(stage), first, supply, staleness, saved)


class Journal:
    """The journal of one stage: a folder with a file per step that is under way. Used as a context manager."""

    def __init__(
        self, folder: Path, first: int, supply: Mapping[str, Any] | None, staleness: int, saved: Callable[[], int]
    ) -> None:
        """
        Args:
            folder: of the journal alone.
            first: the step that goes on from the checkpoint.
            supply: what the checkpoint has of the supply; None: nothing was taken yet.
            staleness: how many versions after it began an item may be trained on.
            saved: says how many steps the newest whole checkpoint has.

        """
        self.steps: dict[int, RecordedStep] = {}
        """Steps that are to be made again."""
        self.first = first
        """The first step after them."""
        self.supply = supply
        """What the supply goes on with from there."""
        self._folder, self._staleness, self._saved = folder, staleness, saved
        self._at = first
        self._places: dict[int, tuple[ScoredGroup, Place]] = {}
        """Of groups that are not trained on, by their identity."""
        self._writer = ThreadPoolExecutor(1, "journal")
        self._writing: list[Future[None]] = []
        self.complete = self._read()
        """Items that are not trained on and need not be generated, by position."""

    def _read(self) -> dict[int, ScoredItem]:
        self._folder.mkdir(parents=True, exist_ok=True)
        items: dict[int, _Record] = {}
        steps: dict[int, _Record] = {}
        files = sorted(self._folder.glob("step-*"))
        for file in files:
            for record in _records(file):
                (steps if record.kind == _STEP else items)[record.number] = record
        while self.first in steps:
            step: _Step | None = _if_readable(steps[self.first])
            if step is None or any(
                not isinstance(group, ScoredGroup) and group[0] not in items for group in step.groups
            ):
                break
            self.steps[self.first] = RecordedStep(step, items)
            self.supply = step.supply
            self.first += 1
        for file in files:
            if _step_of(file) > self.first:
                file.unlink()  # Of a future that is gone.
        now = time.monotonic()
        there: dict[int, ScoredItem] = {}
        for position, record in items.items():
            is_wanted = self.supply is None or position in self.supply["outstanding"]
            if is_wanted and record.version <= self.first and (item := _if_readable(record)) is not None:
                there[position] = replace(item, begun=now, written=now, scored=now)
                self._know(position, there[position])
        return there

    def add(self, position: int, item: ScoredItem) -> None:
        """An item is complete. Written in the background; but what failed in it may not fail again."""
        if not any(group.failures or group.unscored for group in item.groups):
            self._know(position, item)
            self._write(_ITEM, position, _newest(item), item)

    async def end_step(self, step: int, batch: RolloutBatch, supply: Mapping[str, Any]) -> Mapping[str, Any]:
        """A step is trained on and published; its record, and those of its items, are in the file when this returns.

        Returns what a checkpoint after this step has to say of the supply, which is ``supply`` unless it is of a later
        step.

        Raises:
            OSError: they could not be written.

        """
        groups = tuple(self._places.pop(id(group), (None, group))[1] for group in batch.groups)
        if step in self.steps:
            supply = self.steps.pop(step).step.supply
        else:
            self._write(_STEP, step, step, _Step(replace(batch, groups=()), groups, supply))
        self._at = step + 1
        await asyncio.to_thread(self._wait)
        return supply

    def _know(self, position: int, item: ScoredItem) -> None:
        for index, group in enumerate(item.groups):
            self._places[id(group)] = group, (position, index)

    def _write(self, kind: bytes, number: int, version: int, content: ScoredItem | _Step) -> None:
        file = self._folder / f"step-{self._at:06d}"
        self._writing.append(self._writer.submit(_append, file, kind, number, version, content))

    def _wait(self) -> None:
        """Until all is written; then what no checkpoint can need is removed."""
        writing, self._writing = self._writing, []
        for one in writing:
            one.result()
        oldest = self._saved() - self._staleness
        for file in self._folder.glob("step-*"):
            if _step_of(file) < oldest:
                file.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown()


def _if_readable(record: _Record) -> Any:
    """What was written; None, with a warning, where another version of this code wrote it, or a disk lost a part."""
    try:
        return record.read()
    except Exception as error:
        log.warning("%s cannot be read from (%s): what it has is made anew", record.file, one_line(str(error)))
        return None


def _newest(item: ScoredItem) -> int:
    """The version of the newest weights that wrote a token of it."""
    return max((scored.trace.max_version for group in item.groups for scored in group.traces), default=0)


def _step_of(file: Path) -> int:
    return int(file.name.partition("-")[2])


def _append(file: Path, kind: bytes, number: int, version: int, content: ScoredItem | _Step) -> None:
    import pyarrow as pa

    data = pickle.dumps(content)
    packed = pa.Codec("zstd").compress(data, asbytes=True)
    try:
        with file.open("ab") as records:
            records.write(_HEAD.pack(kind, number, version, len(packed), len(data), zlib.crc32(packed)) + packed)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def _records(file: Path) -> Iterator[_Record]:
    """Records of a file; one that is torn is cut off, so that others may follow."""
    size, begin = file.stat().st_size, 0
    with file.open("rb+") as records:
        while begin < size:
            records.seek(begin)
            head = records.read(_HEAD.size)
            if len(head) < _HEAD.size:
                break
            kind, number, version, packed, plain, checksum = _HEAD.unpack(head)
            if begin + _HEAD.size + packed > size:
                break
            yield _Record(kind, number, version, file, begin + _HEAD.size, packed, plain, checksum)
            begin += _HEAD.size + packed
        if begin < size:
            records.truncate(begin)
