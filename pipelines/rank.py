"""Rank the responses to each question of a file by tournaments of a judge, or a few at once.

    python -m pipelines.rank rank.input=samples.jsonl rank.out=ranking.jsonl [rank.method=knockout] [rank.model=...]

A row holds a question and ``responses``, or one ``response``, and rows are grouped by question. Beside
``ranking.jsonl`` lies ``ranking.rank/`` with the journal of comparisons, from which the same command continues.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from pipelines.config import Config
from pipelines.judgment.decision import PAIRWISE, Decision
from pipelines.judgment.groups import read_groups
from pipelines.judgment.listing import LISTWISE, Listing, contests_of, rank_listwise
from pipelines.judgment.opening import Work, open_work, work_of
from pipelines.judgment.outputs import write_rows
from pipelines.judgment.ranking import Group, Ranking, rank_groups
from pipelines.judgment.tournaments import Method, most_calls
from pipelines.reporting.console import Console
from pipelines.runs.command_line import main


def command(config: Config) -> None:
    """Rank ``rank.input``; comparisons that are in the journal already are not made again."""
    section, console = config.rank, Console()
    work = work_of(config, section, "rank")
    console.header("rank", f"{work.source}, {section.method}, seed {config.seed}")
    groups, bad = read_groups(work.source, config.data.on_bad_row, config.data.ignore_columns)
    if bad:
        console.note(f"{len(bad)} bad rows skipped")
    rankings = (_listwise if section.method == "listwise" else _by_pairs)(config, work, groups, console)
    rows = [{"id": group.id, **ranking.as_json()} for group, ranking in zip(groups, rankings, strict=True)]
    write_rows(work.out, rows)
    failed = sum(sum(ranking.failures.values()) for ranking in rankings)
    calls = sum(ranking.calls for ranking in rankings)
    what = "prompts" if section.method == "listwise" else "comparisons"
    console.note(f"{calls:,} {what}, {failed} votes without verdict: {work.out}")


def _by_pairs(config: Config, work: Work, groups: list[Group], console: Console) -> list[Ranking]:
    section, method = config.rank, cast(Method, config.rank.method)
    total = sum(most_calls(method, len(group.responses), section.rounds) for group in groups)
    with open_work(config, section, work, Decision) as (judge, journal):
        console.note(f"{judge.model}: {len(groups):,} groups, at most {total:,} comparisons")
        with console.progress("rank", total) as progress:
            return asyncio.run(
                rank_groups(
                    partial(journal.answers, judge, PAIRWISE),
                    groups,
                    method,
                    section.rounds,
                    lambda done, _: progress.update(done),
                )
            )


def _listwise(config: Config, work: Work, groups: list[Group], console: Console) -> list[Ranking]:
    contests_of(groups)
    with open_work(config, config.rank, work, Listing, "listwise") as (judge, journal):
        console.note(f"{judge.model}: {len(groups):,} groups, each in all rotations")
        with console.progress("rank", len(groups)) as progress:
            return asyncio.run(rank_listwise(partial(journal.answers, judge, LISTWISE), groups, progress.update))


if __name__ == "__main__":
    main(command)
