"""A judge for a command: the model's tokenizer and template, engines that start when something is asked, a journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from actors.messages import GenerationFailure, JudgeMode, Prompt, Sampling, Trace
from actors.verifier.trace import VerdictMode
from pipelines.config import Config, ConfigError
from pipelines.config.judging import FileJudging, Judging
from pipelines.data.prompts import PromptTemplate, encode, load_template
from pipelines.data.rows import stem_of
from pipelines.job.session import Session
from pipelines.judgment.decision import SHOWN, Shown
from pipelines.judgment.journal import JudgingJournal, K
from pipelines.judgment.judging import EngineJudge, JudgingRule
from pipelines.judgment.modes import check_mode, mode_templates, modes_of
from pipelines.judgment.weights import weights_id
from pipelines.runs.folder import RunDirectory
from pipelines.stages.inputs import tokenizer_of
from pipelines.stages.stage import open_run

_KINDS = (".jsonl", ".parquet")
PREFERENCES, PAGE = BESIDE = (".preferences.parquet", ".html")
"""Endings of what is written beside the answers."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a command reads and writes."""

    source: str
    out: Path
    folder: Path
    """Beside ``out``: journal, logs, resolved configuration."""

    def beside(self, ending: str) -> Path:
        """Another file of this work, such as ``decisions.html``."""
        return self.out.with_name(f"{self.out.stem}{ending}")


def work_of(config: Config, section: FileJudging, command: str) -> Work:
    """Input, output and the folder of a command's work.

    Raises:
        ConfigError: no input is named, or an output of another kind, or one that cannot or must not be written.

    """
    if section.input is None:
        raise ConfigError(f"{command}.input is not set: name a file of rows (INPUT=...)")
    name = stem_of(section.input) or Path(section.input).name
    out = Path(section.out or Path(config.output_root) / config.run / command / f"{name}.jsonl")
    if out.suffix not in _KINDS:
        raise ConfigError(f"{command}.out={str(out)!r}: unknown kind of file: use {' or '.join(_KINDS)}")
    work = Work(section.input, out, out.with_name(f"{out.stem}.{command}"))
    if why := _not_to_be_written(work, config.overwrite):
        raise ConfigError(f"{command}.out={str(out)!r} {why}")
    return work


def _not_to_be_written(work: Work, overwrite: bool) -> str | None:
    """Why the answers cannot, or must not, be written to where they are to go: said before hours of judging."""
    source, target = Path(work.source).resolve(), work.out.resolve()
    if source == target:
        return "is the input: name another file"
    if source in (work.beside(ending).resolve() for ending in BESIDE):
        return f"would have {Path(work.source).name}, which is the input, written beside it: give it another name"
    if source.is_dir() and target.is_relative_to(source):
        return "lies in the folder of the input, all files of which are read: name another place"
    if work.out.is_dir():
        return "is a folder: name a file"
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        return f"lies below {above}, which is a file: name another place"
    if work.out.exists() and not work.folder.exists() and not overwrite:
        return (
            f"is there already, and is no work of this command ({work.folder.name} is not beside it): name another "
            "file, or replace it with overwrite=true"
        )
    return None


class SessionEngines:
    """Engines of a session on one model, started by the first prompts."""

    def __init__(self, session: Session, model: str) -> None:
        self._session = session
        self._model = model

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        """As :meth:`actors.rollout.fleet.RolloutFleet.generate`."""
        if prompts:
            async for finished in self._session.rollouts(self._model).generate(prompts, sampling):
                yield finished


def judging_rule(config: Config, section: Judging) -> JudgingRule:
    """The settings a decision depends on."""
    return JudgingRule(
        orders=SHOWN if section.orders == "both" else (cast(Shown, section.orders),),
        votes=section.votes,
        temperature=section.temperature,
        max_prompt_tokens=config.model.max_prompt_tokens,
        max_tokens=config.model.max_response_tokens,
        mode=cast(VerdictMode, config.algorithm.verdict_mode),
        seed=config.seed,
    )


def model_of(config: Config, section: Judging) -> str:
    """The section's model, or what the run's stages left."""
    named = replace(config, evaluate=replace(config.evaluate, model=section.model))
    return RunDirectory(config.output_root, config.run, config.recipe_name).model_to_judge(named)[0]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a judge needs beside engines; loaded before anything is started or written."""

    model: str
    tokenizer: Any
    template: PromptTemplate
    templates: Mapping[JudgeMode, PromptTemplate]
    """Of the other modes."""


def judge_parts(config: Config, section: Judging) -> Parts:
    """The model's name, its tokenizer and the prompt template.

    Raises:
        ModelError, DataError: the model, its tokenizer or the template cannot be used.

    """
    model = model_of(config, section)
    tokenizer = tokenizer_of(config, model)
    # A tokenizer without a chat template is refused here.
    encode([{"role": "user", "content": "?"}], tokenizer)
    return Parts(model, tokenizer, load_template(config.model.prompt), mode_templates(config.model.prompt))


@contextmanager
def open_judge(
    config: Config, section: Judging, parts: Parts, run: RunDirectory, eager: bool = False
) -> Iterator[EngineJudge]:
    """A judge whose engines end with this context, and log to ``run``. They start with it where it is ``eager``."""
    with Session(without_learners(config), run) as session:
        if eager:
            session.rollouts(parts.model)
        engines, weights = SessionEngines(session, parts.model), weights_id(parts.model)
        rule, modes = judging_rule(config, section), modes_of(parts.model)
        yield EngineJudge(engines, parts.template, parts.tokenizer, parts.model, weights, rule, modes, parts.templates)


def without_learners(config: Config) -> Config:
    """The configuration of a job that only judges."""
    return replace(config, learner=replace(config.learner, ranks=0))


@contextmanager
def open_work(
    config: Config, section: FileJudging, work: Work, kind: type[K], judged: JudgeMode = "pairwise"
) -> Iterator[tuple[EngineJudge, JudgingJournal[K]]]:
    """A judge and the journal of a command's work; ``overwrite`` begins it anew.

    Raises:
        ModeUnsupported: the model was trained for other modes than ``judged``.

    """
    parts = judge_parts(config, section)
    check_mode(parts.model, modes_of(parts.model), judged)
    journal = work.folder / ("journal.jsonl" if judged == "pairwise" else f"journal.{judged}.jsonl")
    own = replace(config, output_root=str(work.folder.parent), run=work.folder.name)
    with open_run(own) as run, open_judge(config, section, parts, run) as judge:
        if config.overwrite:
            journal.unlink(missing_ok=True)
        with JudgingJournal(journal, kind) as known:
            yield judge, known
