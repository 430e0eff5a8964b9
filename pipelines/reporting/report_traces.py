"""Which of a run's traces the report shows: all of a small run, an even choice of a large one."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.reporting.tracking import TRACE_COLUMNS

log = logging.getLogger(__name__)

STAGES = ("before", "distill", "rl")
TRACE_ROWS = 6000
TRACE_CHARACTERS = 8_000_000
"""Text of all traces in the report, so that the file opens quickly in a browser."""
_TEXT_COLUMNS = ("question", "response_a", "response_b", "text")
_KEY_COLUMNS = ("stage", "step", "pair_id", "sample", "order", "domain", "label", "verdict")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a trace is, and what decides whether it is shown."""

    file: int
    row: int
    heldout: bool
    stage: str
    step: int
    pair: tuple[bool, str, int, str]
    """Held out, stage, step and pair: the traces that are shown together or not at all."""
    sample: int
    order: str
    chosen: bool | None
    """Whether the verdict names the better response; None where there is no verdict."""
    characters: int


def select_traces(
    files: Sequence[Path], notes: list[str], *, max_rows: int = TRACE_ROWS, max_characters: int = TRACE_CHARACTERS
) -> dict[str, Any]:
    """Choose traces for the report: ``{"columns", "rows", "total", "shown"}``; ``rows`` are lists in column order.

    All traces of a pair at a step come together. Stages share the room equally, and what one does not need goes to
    the others. Within a stage held-out judgments come first (files named ``heldout-*``), then its last step, then the
    rest by a hash of the pair, so that the choice is even and the same every time.

    Two columns are added: ``set`` (``held out`` or ``training``), and ``flipped``, true where the two orders of the
    pair led to different responses (same stage, step and sample).
    """
    places: list[_Place] = []
    usable: list[Path] = []
    for path in files:
        try:
            places += _scan(path, len(usable))
        except Exception as error:  # A damaged file must not cost the reader the rest of the report.
            log.warning("report: %s is left out: %s", path, error)
            notes.append(f"traces/{path.name} is left out: {error}")
            continue
        usable.append(path)
    flipped = _flipped(places)
    chosen = _choose(places, max_rows, max_characters)
    by_file: dict[int, list[_Place]] = defaultdict(list)
    for place in chosen:
        by_file[place.file].append(place)
    rows: list[tuple[_Place, list[Any]]] = []
    for number, wanted in by_file.items():
        table = pq.read_table(usable[number], columns=list(TRACE_COLUMNS))
        for place, record in zip(wanted, table.take([place.row for place in wanted]).to_pylist(), strict=True):
            values = [record[name] for name in TRACE_COLUMNS]
            name = "held out" if place.heldout else "training"
            rows.append((place, [*values, name, (*place.pair, place.sample) in flipped]))
    rank = {stage: index for index, stage in enumerate(reversed(STAGES))}
    rows.sort(
        key=lambda row: (
            *(not row[0].heldout, rank.get(row[0].stage, len(rank)), -row[0].step),
            *(row[0].pair[-1], row[0].sample, row[0].order),
        )
    )
    return {
        "columns": [*TRACE_COLUMNS, "set", "flipped"],
        "rows": [values for _, values in rows],
        "total": len(places),
        "shown": len(rows),
    }


def _scan(path: Path, file: int) -> list[_Place]:
    """The places of a file's traces, read in batches, so that long texts are not all in memory at once."""
    parquet = pq.ParquetFile(path)
    missing = [name for name in TRACE_COLUMNS if name not in parquet.schema_arrow.names]
    if missing:
        raise ValueError(f"columns are missing: {', '.join(missing)}")
    heldout = path.name.startswith("heldout-")
    places: list[_Place] = []
    for batch in parquet.iter_batches(batch_size=1024, columns=list(TRACE_COLUMNS)):
        lengths = [
            pc.fill_null(pc.utf8_length(batch.column(name).cast("string")), 0).to_pylist() for name in _TEXT_COLUMNS
        ]
        keys = batch.select(list(_KEY_COLUMNS)).to_pylist()
        for key, *characters in zip(keys, *lengths, strict=True):
            stage, step = str(key["stage"]), int(key["step"] or 0)
            places.append(
                _Place(
                    file=file,
                    row=len(places),
                    heldout=heldout,
                    stage=stage,
                    step=step,
                    pair=(heldout, stage, step, str(key["pair_id"])),
                    sample=int(key["sample"] or 0),
                    order=str(key["order"]),
                    chosen=None if key["verdict"] is None else key["verdict"] == key["label"],
                    characters=sum(characters),
                )
            )
    return places


def _flipped(places: Iterable[_Place]) -> set[tuple[object, ...]]:
    """Pairs (``_Place.pair`` and sample) whose two orders were both read and name different responses."""
    verdicts: dict[tuple[object, ...], dict[str, bool]] = defaultdict(dict)
    for place in places:
        if place.chosen is not None:
            verdicts[(*place.pair, place.sample)][place.order] = place.chosen
    return {key for key, by_order in verdicts.items() if len(set(by_order.values())) == 2}


def _choose(places: Sequence[_Place], max_rows: int, max_characters: int) -> list[_Place]:
    stages: dict[str, dict[tuple[bool, str, int, str], list[_Place]]] = defaultdict(lambda: defaultdict(list))
    for place in places:
        stages[place.stage][place.pair].append(place)
    chosen: list[_Place] = []
    # Small stages first, so that what they leave is known when the large ones divide the rest.
    ordered = sorted(stages.values(), key=lambda groups: sum(map(len, groups.values())))
    for index, groups in enumerate(ordered):
        rows, characters = max_rows // (len(ordered) - index), max_characters // (len(ordered) - index)
        last = max(step for _, _, step, _ in groups)
        for key in sorted(groups, key=lambda key: (not key[0], key[2] != last, zlib.crc32(repr(key).encode()), key)):
            size = sum(place.characters for place in groups[key])
            if len(groups[key]) <= rows and size <= characters:
                rows, characters = rows - len(groups[key]), characters - size
                max_rows, max_characters = max_rows - len(groups[key]), max_characters - size
                chosen += groups[key]
    return chosen
