"""Judge a file of pairs that need no labels: decisions, a preference set, and on request a page to read them in.

With ``judge.mode=pointwise`` rate single responses instead: rows of a question and ``responses``, or one ``response``.

    python -m pipelines.judge judge.input=pairs.jsonl judge.out=decisions.jsonl [judge.model=...] [judge.page=true]

writes beside ``decisions.jsonl``: ``decisions.preferences.parquet``, which `make data` takes, ``decisions.html``, and
the folder ``decisions.judge/`` with the journal, from which the same command continues.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from statistics import fmean

from pipelines.config import Config, ConfigError
from pipelines.data.preference_file import PairFile, read_pair_file
from pipelines.judgment.decision import PAIRWISE, Decision
from pipelines.judgment.groups import read_groups
from pipelines.judgment.judging import in_order
from pipelines.judgment.opening import PAGE, PREFERENCES, open_work, work_of
from pipelines.judgment.outputs import write_decisions_page, write_preferences, write_rows
from pipelines.judgment.rating import POINTWISE, RatingDecision, to_rate
from pipelines.reporting.console import Console
from pipelines.runs.command_line import main


def read(config: Config, path: str) -> PairFile:
    """The pairs of a file in any known form, labels aside."""
    return read_pair_file(path, on_bad_row=config.data.on_bad_row, ignore=config.data.ignore_columns, labelled=False)


def command(config: Config) -> None:
    """Judge ``judge.input``; what is in the journal already is not judged again."""
    (rate_file if config.judge.mode == "pointwise" else judge_pairs)(config)


def rate_file(config: Config) -> None:
    """Rate every response of ``judge.input``, whose rows are those of `make rank`; one response is enough."""
    section, console = config.judge, Console()
    if section.page:
        raise ConfigError("judge.page=true is of pairs: leave it out with judge.mode=pointwise")
    work = work_of(config, section, "judge")
    console.header("judge", f"{work.source}, pointwise, seed {config.seed}")
    groups, bad = read_groups(work.source, config.data.on_bad_row, config.data.ignore_columns, least=1)
    if bad:
        console.note(f"{len(bad)} bad rows skipped")
    places = [(group, position) for group in groups for position in range(len(group.responses))]
    asked = [
        to_rate(group.question, group.responses[position], place=f"{group.id}, response {position}")
        for group, position in places
    ]
    with open_work(config, section, work, RatingDecision, "pointwise") as (judge, journal):
        console.note(f"{judge.model}: {len(asked):,} responses to {len(groups):,} questions")
        with console.progress("judge", len(asked)) as progress:
            decisions = asyncio.run(in_order(journal.answers(judge, POINTWISE, asked), progress.update))
    rows = [
        {"id": group.id, "position": position, **decision.as_json()}
        for (group, position), decision in zip(places, decisions, strict=True)
    ]
    write_rows(work.out, rows)
    causes: Counter[str] = Counter()
    for decision in decisions:
        causes.update(decision.failures)
    unread = "".join(f", {count} votes without rating: {cause}" for cause, count in sorted(causes.items()))
    known = [decision.rating for decision in decisions if decision.rating is not None]
    console.note(f"{len(known):,} ratings" + (f", mean {fmean(known):.2f}" if known else "") + f"{unread}: {work.out}")


def judge_pairs(config: Config) -> None:
    """Decide between the responses of every pair of ``judge.input``."""
    section, console = config.judge, Console()
    work = work_of(config, section, "judge")
    console.header("judge", f"{work.source}, seed {config.seed}")
    file = read(config, work.source)
    for loss in file.losses():
        console.note(loss)
    with open_work(config, section, work, Decision) as (judge, journal):
        console.note(f"{judge.model}: {len(file.pairs):,} pairs ({file.schema})")
        with console.progress("judge", len(file.pairs)) as progress:
            decisions = asyncio.run(in_order(journal.answers(judge, PAIRWISE, file.pairs), progress.update))
    judged = list(zip(file.pairs, decisions, strict=True))
    write_rows(work.out, [{"id": pair.id, **decision.as_json()} for pair, decision in judged])
    kept = write_preferences(work.beside(PREFERENCES), judged)
    console.note(summary(decisions))
    console.note(f"{work.out}; {kept} pairs with a winner: {work.beside('.preferences.parquet')}")
    if section.page:
        page = work.beside(PAGE)
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
