"""Decisions that outlive the process: one JSON line each, and what is there is never asked again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from actors.errors import UserError
from actors.jsonl import JsonLines
from actors.messages import ParseFailure
from pipelines.data.rows import rows_of
from pipelines.data.schema import DataError, PreferencePair
from pipelines.judgment.decision import Decision
from pipelines.judgment.judging import TOO_LONG, PairwiseJudge

_LASTING = {*get_args(ParseFailure), TOO_LONG}
"""Causes that asking again would not change."""


class JudgmentsFailed(UserError, RuntimeError):
    """Engines failed on some judgments; the others are in the journal, and the same command tries again."""


class JudgingJournal:
    """``journal.jsonl``: decisions by key, open for appending; only one process may.

    Raises:
        DataError: the file holds something else; names the row.
        OSError: it cannot be written.

    """

    def __init__(self, path: Path) -> None:
        self.known: dict[str, Decision] = {}
        self._file = JsonLines(path)
        for number, row in rows_of(path):
            try:
                self.known[row["key"]] = Decision.of_json(row["decision"])
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

    async def decisions(
        self, judge: PairwiseJudge, pairs: Sequence[PreferencePair]
    ) -> AsyncIterator[tuple[int, Decision]]:
        """As :meth:`PairwiseJudge.decisions`; those that are known come first and are not asked for.

        Raises:
            JudgmentsFailed: engines failed on some; raised when all others have come.

        """
        keys = judge.keys(pairs)
        for index, key in enumerate(keys):
            if key in self.known:
                yield index, self.known[key]
        missing = [index for index, key in enumerate(keys) if key not in self.known]
        failed: list[tuple[int, dict[str, Any]]] = []
        async for place, decision in judge.decisions([pairs[index] for index in missing]):
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
                f"{len(failed)} of {len(missing)} comparisons failed; first: {pairs[index].id}: "
                f"{', '.join(causes)}; run the same command again: what is in the journal is not judged again"
            )
