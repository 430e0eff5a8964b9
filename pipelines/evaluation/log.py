"""The log of an evaluation: one JSON line per judgment, written as it arrives and read back to continue.

What is there is never judged again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from actors.jsonl import JsonLines
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError, check_unicode

Key = tuple[str, str, str, int]
"""Benchmark, comparison, order, vote."""

COLUMNS = (
    "benchmark",
    "subset",
    "category",
    "item",
    "comparison",
    "group",
    "chosen_style",
    "rejected_style",
    "order",
    "vote",
    "label",
    "prompt_hash",
    "prompt_tokens",
    "text",
    "verdict",
    "cause",
    "score",
    "tokens",
    "finish_reason",
    "verdict_logprob",
    "better_shorter",
    "model",
    "weights",
    "engine",
)
"""Fields of every row, in this order; docs/evaluation.md says what they hold."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Identifies the judgment that a row holds."""
    return str(row["benchmark"]), str(row["comparison"]), str(row["order"]), int(row["vote"])


class JudgmentLog:
    """``judgments.jsonl`` of an evaluation, open for appending.

    Raises:
        DataError: the file holds something else, or a judgment twice.
        OSError: it cannot be written.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        """Every judgment so far."""
        self._file = JsonLines(path)
        for place, row in self._stored():
            if key_of(row) in self.rows:
                raise DataError(f"{place}: {'/'.join(map(str, key_of(row)))} is judged twice: remove one of the rows")
            self.rows[key_of(row)] = row

    def _stored(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, row in rows_of(self.path):
            place = f"{self.path}, row {number}"
            missing = [name for name in COLUMNS if not isinstance(row, dict) or name not in row]
            if missing:
                raise DataError(
                    f"{place}: no judgment of this project ({', '.join(missing)} missing): move the file away"
                )
            yield place, row

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add judgments, which outlive this process from then on."""
        for row in rows:
            check_unicode(row, f"judgment {key_of(row)}")
            if key_of(row) in self.rows:
                raise RuntimeError(f"judgment {key_of(row)} arrived twice")
            self.rows[key_of(row)] = row
        self._file.append(*rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
