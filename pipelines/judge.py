"""Judge a file of pairs that need no labels: decisions, a preference set, and on request a page to read them in.

    python -m pipelines.judge judge.input=pairs.jsonl judge.out=decisions.jsonl [judge.model=...] [judge.page=true]

writes beside ``decisions.jsonl``: ``decisions.preferences.parquet``, which `make data` takes, ``decisions.html``, and
the folder ``decisions.judge/`` with the journal, from which the same command continues.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from pipelines.config import Config
from pipelines.data.preference_file import PairFile, read_pair_file
from pipelines.data.schema import PreferencePair
from pipelines.judgment.decision import Decision
from pipelines.judgment.journal import JudgingJournal
from pipelines.judgment.judging import PairwiseJudge
from pipelines.judgment.opening import open_work, work_of
from pipelines.judgment.outputs import write_decisions_page, write_preferences, write_rows
from pipelines.reporting.console import Console, StageProgress
from pipelines.runs.command_line import main


def read(config: Config, path: str) -> PairFile:
    """The pairs of a file in any known form, labels aside."""
    return read_pair_file(path, on_bad_row=config.data.on_bad_row, ignore=config.data.ignore_columns, labelled=False)


async def decide_all(
    judge: PairwiseJudge, journal: JudgingJournal, pairs: list[PreferencePair], progress: StageProgress
) -> list[Decision]:
    """The decision of every pair, in order."""
    decided: dict[int, Decision] = {}
    async for index, decision in journal.decisions(judge, pairs):
        decided[index] = decision
        progress.update(len(decided))
    return [decided[index] for index in range(len(pairs))]


def command(config: Config) -> None:
    """Judge ``judge.input``; what is in the journal already is not judged again."""
    section, console = config.judge, Console()
    work = work_of(config, section, "judge")
    console.header("judge", f"{work.source}, seed {config.seed}")
    file = read(config, work.source)
    for loss in file.losses():
        console.note(loss)
    with open_work(config, section, work) as (judge, journal):
        console.note(f"{judge.model}: {len(file.pairs):,} pairs ({file.schema})")
        with console.progress("judge", len(file.pairs)) as progress:
            decisions = asyncio.run(decide_all(judge, journal, file.pairs, progress))
    judged = list(zip(file.pairs, decisions, strict=True))
    write_rows(work.out, [{"id": pair.id, **decision.as_json()} for pair, decision in judged])
    kept = write_preferences(work.beside(".preferences.parquet"), judged)
    console.note(summary(decisions))
    console.note(f"{work.out}; {kept} pairs with a winner: {work.beside('.preferences.parquet')}")
    if section.page:
        page = work.beside(".html")
        write_decisions_page(page, judged, work.source, config.evaluate.example_traces)
        console.report(page)


def summary(decisions: list[Decision]) -> str:
    """Winners, flips and failures in words."""
    winners = Counter(decision.winner for decision in decisions)
    causes: Counter[str] = Counter()
    for decision in decisions:
        causes.update(decision.failures)
    parts = [f"{winners['a']} for a", f"{winners['b']} for b"]
    parts.append(f"{winners['tie']} ties ({sum(decision.flipped for decision in decisions)} flipped with the order)")
    return ", ".join(parts + [f"{count} votes without verdict: {cause}" for cause, count in sorted(causes.items())])


if __name__ == "__main__":
    main(command)
