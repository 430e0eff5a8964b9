"""Rank the responses to each question of a file by tournaments of a judge.

    python -m pipelines.rank rank.input=samples.jsonl rank.out=ranking.jsonl [rank.method=knockout] [rank.model=...]

A row holds a question and ``responses``, or one ``response``, and rows are grouped by question. Beside
``ranking.jsonl`` lies ``ranking.rank/`` with the journal of comparisons, from which the same command continues.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from pipelines.config import Config
from pipelines.judgment.groups import read_groups
from pipelines.judgment.opening import open_work, work_of
from pipelines.judgment.outputs import write_rows
from pipelines.judgment.ranking import rank_groups
from pipelines.judgment.tournaments import Method, most_calls
from pipelines.reporting.console import Console
from pipelines.runs.command_line import main


def command(config: Config) -> None:
    """Rank ``rank.input``; comparisons that are in the journal already are not made again."""
    section, console = config.rank, Console()
    work, method = work_of(config, section, "rank"), cast(Method, section.method)
    console.header("rank", f"{work.source}, {method}, seed {config.seed}")
    groups, bad = read_groups(work.source, config.data.on_bad_row)
    if bad:
        console.note(f"{len(bad)} bad rows skipped")
    total = sum(most_calls(method, len(group.responses), section.rounds) for group in groups)
    with open_work(config, section, work) as (judge, journal):
        console.note(f"{judge.model}: {len(groups):,} groups, at most {total:,} comparisons")
        with console.progress("rank", total) as progress:
            rankings = asyncio.run(
                rank_groups(
                    partial(journal.decisions, judge),
                    groups,
                    method,
                    section.rounds,
                    lambda done, _: progress.update(done),
                )
            )
    rows = [{"id": group.id, **ranking.as_json()} for group, ranking in zip(groups, rankings, strict=True)]
    write_rows(work.out, rows)
    failed = sum(sum(ranking.failures.values()) for ranking in rankings)
    calls = sum(ranking.calls for ranking in rankings)
    console.note(f"{calls:,} comparisons, {failed} votes without verdict: {work.out}")


if __name__ == "__main__":
    main(command)
