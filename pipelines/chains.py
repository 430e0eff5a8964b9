"""Write reasoning chains with teachers, in two passes: judge, then revise what came out wrong.

The first teacher judges every question. What ends in the right verdict, is whole and passes the filters is kept. For
the others the second teacher is shown the flawed attempt and the right verdict, up to ``chains.rounds`` times, and must
write as if it had not been. Every answer is in the journal before it is used, so the same command continues an
interrupted run without paying twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from actors.files import write_text
from pipelines.chain_generation.betrayal import RATED_ALONE, BetrayalLint
from pipelines.chain_generation.card import card_data
from pipelines.chain_generation.collection import Collection, Round, chain_row, refused_row
from pipelines.chain_generation.hints import load_hint
from pipelines.chain_generation.local import LocalTeacher
from pipelines.chain_generation.questions import Question, questions_of
from pipelines.chain_generation.selection import examine, flawed_attempt
from pipelines.config import Config
from pipelines.data.modes import trained_modes
from pipelines.data.schema import DataError
from pipelines.endpoints.dispatch import Asked, Dispatcher
from pipelines.endpoints.endpoint import Endpoint
from pipelines.endpoints.failures import Failure
from pipelines.endpoints.journal import Journal, set_aside
from pipelines.endpoints.limits import Budget
from pipelines.endpoints.requests import FIRST_PASS, Answer, Request, build_request
from pipelines.endpoints.teachers import NamedTeacher, TeacherClient, teachers_of
from pipelines.reporting.cards import render_card
from pipelines.reporting.console import Console, percent
from pipelines.runs.command_line import main
from pipelines.runs.folder import RunDirectory
from pipelines.stages.stage import open_run


class ChainWriter:
    """One set of chains, from pairs to card."""

    def __init__(self, config: Config, run: RunDirectory, console: Console, journal: Journal) -> None:
        """Read everything that can be wrong before anything is asked.

        Raises:
            ConfigError, DataError, StageMissing: a setting, the pairs or a template cannot be used.

        """
        self.config = config
        self.run = run
        self.console = console
        self.journal = journal
        self.budget = Budget(config.chains.budget_tokens, config.chains.budget_cost, journal.tokens, journal.cost)
        self.teachers = teachers_of(config)
        self.hints = {mode: load_hint(config.chains.hint, mode) for mode in trained_modes(config.data.modes)}
        lints = {
            mode: BetrayalLint(
                hint,
                config.chains.hint_words,
                [*config.chains.betrayals, *(RATED_ALONE if mode == "pointwise" else ())],
            )
            for mode, hint in self.hints.items()
        }
        questions = questions_of(config, run)
        console.note(questions.describe())
        self._opened = AsyncExitStack()
        self._client: tuple[NamedTeacher, TeacherClient] | None = None
        self.collection = Collection(
            questions, lambda question, answer: examine(question, answer, config.chains.filters, lints[question.mode])
        )

    async def write(self) -> None:
        """Ask, examine, ask again where nothing could be kept; then write the set and its card.

        Raises:
            TeacherError: a teacher cannot go on; what it has answered is kept.
            DataError: no chain could be kept.

        """
        async with self._opened:
            await self._ask_in_rounds()
        self.finish()

    async def _ask_in_rounds(self) -> None:
        first, second = self.teachers
        for number in range(self.config.chains.rounds + 1):
            name, teacher = ("first pass", first) if number == FIRST_PASS else (f"second pass, round {number}", second)
            open_questions = self.collection.open_questions()
            requests = [request for item in open_questions for request in self.requests(item, teacher, number)]
            if not requests:
                break
            asked = await self.ask(name, teacher, requests)
            self.collection.end_round(requests, Round(number, name, teacher, len(requests), asked))
            if asked.out_of_budget:
                self.console.warn(f"the budget is spent ({self.budget.describe()}): the set is what there is so far")
                return

    def requests(self, question: Question, teacher: NamedTeacher, number: int) -> list[Request]:
        """What is asked about a question in a round: the question itself, or what went wrong with a hint."""
        messages = question.messages
        if number != FIRST_PASS:
            attempt = flawed_attempt(self.collection.examined(question))
            messages = self.hints[question.mode].messages(messages, attempt, self.collection.told(question))
        return [
            build_request(teacher.settings, messages, question.uid, number, sample, self.config.seed)
            for sample in range(self.config.chains.samples)
        ]

    async def ask(self, name: str, teacher: NamedTeacher, requests: list[Request]) -> Asked:
        """Answers to all requests, from the journal where it has them. The teacher is opened only for the others."""
        found = self.journal.find(requests)
        for answer in found.values():
            self.collection.add(answer)
        if found:
            self.console.note(f"{name}: {len(found):,} of {len(requests):,} answers are in the journal")
        missing = [request for request in requests if request.key not in found]
        asked = await self._ask_now(name, teacher, missing, len(found)) if missing else Asked()
        if asked.repeated:
            self.console.note(f"{name}: attempts that failed and were repeated: {counted(asked.repeated)}")
        if asked.failures:
            causes = Counter(failure.cause for failure in asked.failures.values())
            example = next(iter(asked.failures.values())).detail
            self.console.warn(
                f"{name}: requests failed: {counted(causes)} (first: {example}); run again to ask once more"
            )
        asked.answers |= found
        return asked

    async def _ask_now(self, name: str, teacher: NamedTeacher, requests: list[Request], done: int) -> Asked:
        client = await self._open(teacher)
        started, total, ended = time.monotonic(), done + len(requests), 0
        with self.console.progress(name, total, done) as progress:

            def received(outcome: Answer | Failure) -> None:
                nonlocal ended
                ended += 1
                if isinstance(outcome, Answer):
                    self.collection.add(outcome)
                metrics = {
                    "kept": self.collection.kept_share,
                    "answers_per_minute": 60 * ended / (time.monotonic() - started),
                    "tokens": float(self.budget.spent_tokens),
                }
                if self.budget.spent_cost:
                    metrics["cost"] = self.budget.spent_cost
                progress.update(done + ended, metrics)

            return await Dispatcher(client, teacher, self.journal, self.budget).ask(requests, received)

    async def _open(self, teacher: NamedTeacher) -> TeacherClient:
        """The teacher, opened when it is first needed. The one before is closed: two local ones may not fit."""
        if self._client is None or self._client[0] != teacher:
            await self._opened.aclose()
            local = teacher.settings.kind == "local"
            client: TeacherClient = LocalTeacher(teacher, self.config, self.run) if local else Endpoint(teacher)
            self._client = teacher, await self._opened.enter_async_context(client)
        return self._client[1]

    def finish(self) -> None:
        """Write the set, what was refused, and the card; say what came out."""
        folder = self.run.chains
        chains = [chain_row(*chosen) for chosen in self.collection.chains()]
        self._replace(folder / "refused.parquet", [refused_row(*refused) for refused in self.collection.refused()])
        self._replace(folder / "chains.parquet", chains)
        data = card_data(self.config, self.collection, self.journal, folder)
        for kind in ("md", "html"):
            write_text(folder / f"card.{kind}", render_card(data, "chain_generation", kind))
        summary = data["summary"]
        self.run.update_summary({"chains": summary})
        self.console.note(
            f"first pass right {percent(summary['first_pass_accuracy'])}, "
            f"second pass recovered {summary['recovered']:,} of {summary['revised']:,}, "
            f"kept {len(chains):,} of {summary['questions']:,}; {self.journal.tokens:,} tokens"
            + (f", cost {self.journal.cost:,.2f}" if self.journal.cost else "")
        )
        shown = self.run.shown / "chains"
        if not chains:
            raise DataError(
                f"no chain could be kept ({counted(summary['refused']) or 'nothing was answered'}): "
                f"read {shown}/refused.parquet and {shown}/card.md"
            )
        if summary["unanswered"]:
            self.console.warn(
                f"{summary['unanswered']:,} questions are not answered yet: run the same command to go on"
            )
        else:
            self.run.mark_finished("chains")
        self.console.note(
            f"{shown}/chains.parquet, {shown}/card.md; learn them with data.chains={shown}/chains.parquet"
        )

    def _replace(self, path: Path, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.run.write_parquet(path, rows)
        else:
            path.unlink(missing_ok=True)


def counted(causes: Counter[str] | dict[str, int]) -> str:
    """``3 wrong verdict, 1 no verdict``: causes with their counts, the commonest first."""
    return ", ".join(f"{count:,} {cause}" for cause, count in Counter(causes).most_common())


def command(config: Config) -> None:
    """The pipeline as a command."""
    with open_run(config) as run:
        console = Console()
        console.header("chains", f"run {config.run}, recipe {config.recipe_name}, seed {config.seed}")
        file = run.chains / "journal.jsonl"
        if config.overwrite:
            run.start_over("chains")
            if aside := set_aside(file):
                console.note(f"the answers so far are kept in {aside}")
        with Journal(file) as journal:
            if unusable := Counter(journal.unusable.values()):
                console.warn(f"{file}: rows that are no whole answers are asked for again: {counted(unusable)}")
            writer = ChainWriter(config, run, console, journal)
            run.note("chains", finished=None)
            asyncio.run(writer.write())


if __name__ == "__main__":
    main(command)
