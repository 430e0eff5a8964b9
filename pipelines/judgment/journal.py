"""Decisions that outlive the process: one JSON line each, and what is there is never asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, get_args

from actors.errors import UserError
from actors.jsonl import JsonLines
from actors.messages import ParseFailure
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError
from pipelines.judgment.judging import TOO_LONG, EngineJudge, I, Mode, V

_LASTING = {*get_args(ParseFailure), TOO_LONG}
"""Causes that asking again would not change."""


class JudgmentsFailed(UserError, RuntimeError):
    """Engines failed on some judgments; the others are in the journal, and the same command tries again."""


class Kept(Protocol):
    """What a journal keeps: a decision, a rating, or the orders of a group."""

    @property
    def failures(self) -> Mapping[str, int]:
        """Votes that could not be read, by cause."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Self:
        """What :meth:`as_json` wrote."""


K = TypeVar("K", bound=Kept)


class JudgingJournal(Generic[K]):
    """``journal.jsonl``: decisions by key, open for appending; only one process may.

    Raises:
        DataError: the file holds something else; names the row.
        OSError: it cannot be written.

    """

    def __init__(self, path: Path, kind: type[K]) -> None:
        self.known: dict[str, K] = {}
        self._file = JsonLines(path)
        for number, row in rows_of(path):
            try:
                self.known[row["key"]] = kind.of_json(row["decision"])
            except (TypeError, KeyError, AttributeError) as error:
                raise DataError(
                    f"{path}, row {number}: no decision of this version: remove the row, or the file to begin anew"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    async def answers(
        self, judge: EngineJudge, mode: Mode[I, V, K], items: Sequence[I]
    ) -> AsyncIterator[tuple[int, K]]:
        """As :meth:`EngineJudge.answers`; those that are known come first and are not asked for.

        Raises:
            JudgmentsFailed: engines failed on some; raised when all others have come.

        """
        keys = judge.keys(mode, items)
        for index, key in enumerate(keys):
            if key in self.known:
                yield index, self.known[key]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        failed: list[tuple[int, dict[str, Any]]] = []
        async for place, decision in judge.answers(mode, [items[index] for index in missing]):
            index = missing[place]
            if lost := {cause: count for cause, count in decision.failures.items() if cause not in _LASTING}:
                failed.append((index, lost))
                continue
            if keys[index] not in self.known:
                self._file.append({"key": keys[index], "decision": decision.as_json()})
                self.known[keys[index]] = decision
            yield index, decision
        if failed:
            index, causes = failed[0]
            raise JudgmentsFailed(
                f"{len(failed)} of {len(missing)} judgments failed; first: {mode.name(items[index])}: "
                f"{', '.join(causes)}; run the same command again: what is in the journal is not judged again"
            )
