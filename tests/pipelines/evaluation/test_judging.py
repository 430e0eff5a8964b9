"""Streaming, logging and continuing, with engines that answer from a table and die when told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judges import FACTS
from transformers import AutoTokenizer

from actors.messages import GenerationFailure, Prompt, Sampling, Trace
from pipelines.benchmarks.benchmark import find
from pipelines.config import Config
from pipelines.data.prompts import load_template
from pipelines.data.schema import DataError
from pipelines.evaluation.heldout import judge as judge_heldout
from pipelines.evaluation.judging import Judgment, judge, pending, plan
from pipelines.evaluation.log import COLUMNS, JudgmentLog
from pipelines.evaluation.metrics import summarise
from pipelines.evaluation.results import judged_of, results
from pipelines.loop.rollouts import EvaluationFailed
from pipelines.stages.inputs import JudgingTask

SAMPLING = Sampling(max_tokens=64)
CONFIG = Config()


class Engines:
    """Answers each prompt by its uid, in lists of three, the last ones first; may end early."""

    def __init__(self, tokenizer: Any, most: int | None = None, failing: str | None = None) -> None:
        self.tokenizer, self.most, self.failing = tokenizer, most, failing
        self.asked: list[str] = []

    async def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> AsyncIterator[list[Trace | GenerationFailure]]:
        self.asked = [prompt.uid for prompt in prompts]
        waiting = list(reversed(prompts))[: self.most]
        for start in range(0, len(waiting), 3):
            yield [self._answer(prompt) for prompt in waiting[start : start + 3]]
        if self.most is not None and self.most < len(prompts):
            raise RuntimeError("the machine went away")

    def _answer(self, prompt: Prompt) -> Trace | GenerationFailure:
        if self.failing is not None and self.failing in prompt.uid:
            return GenerationFailure(prompt.uid, 0, "engine_error", "out of memory")
        side = "A" if sum(prompt.uid.encode()) % 3 else "B"
        tokens = np.array(self.tokenizer.encode(f"so <answer>[[{side}]]</answer>"), dtype=np.int32)
        logprobs = -0.01 * np.arange(len(tokens), dtype=np.float32)
        text = self.tokenizer.decode(tokens)
        return Trace(prompt.uid, 0, tokens, logprobs, text, "stop", np.zeros(len(tokens), dtype=np.int32))


@pytest.fixture(scope="module")
def tokenizer(tiny_model_directory: Path) -> Any:
    """The tiny model's."""
    return AutoTokenizer.from_pretrained(tiny_model_directory)


@pytest.fixture(scope="module")
def judgments(tokenizer: Any) -> list[Judgment]:
    """Twenty pairs of the built-in family in both orders, two votes each."""
    return planned(tokenizer, votes=2)


def planned(tokenizer: Any, **settings: Any) -> list[Judgment]:
    """Judgments of twenty pairs of the built-in family."""
    settings = {"orders": "both", "votes": 1, "seed": 0, **settings}
    comparisons = find("builtin").load(None)[:20]
    return plan(find("builtin"), "builtin", comparisons, load_template("tiny"), tokenizer, **settings)


def run(engines: Engines, judgments: list[Judgment], path: Path, facts: dict[str, Any] = FACTS) -> JudgmentLog:
    """One evaluation, or its continuation."""
    with JudgmentLog(path) as log:
        waiting = pending(judgments, log, 512, facts)
        asyncio.run(judge(engines, waiting, SAMPLING, "paper", engines.tokenizer, facts, log))  # type: ignore[arg-type]
    return log


def ordered(judgments: list[Judgment], log: JudgmentLog) -> list[dict[str, Any]]:
    """Rows in the order of the plan."""
    return [log.rows[item.key] for item in judgments]


@pytest.mark.slow
def test_orders_and_votes_of_the_plan(tokenizer: Any, judgments: list[Judgment]) -> None:
    assert len(judgments) == 80
    assert len({item.key for item in judgments}) == 80
    first, again = judgments[0], judgments[1]
    assert (first.vote, again.vote, first.order, first.label) == (0, 1, "chosen_first", "A")
    # Votes share their prompt, whose prefix engines compute once.
    assert first.token_ids == again.token_ids
    assert judgments[2].label == "B"
    assert judgments[2].token_ids != first.token_ids
    drawn = planned(tokenizer, orders="random")
    assert [item.order for item in drawn] == [item.order for item in planned(tokenizer, orders="random")]
    assert 0 < sum(item.label == "A" for item in drawn) < 20
    assert [item.order for item in drawn] != [item.order for item in planned(tokenizer, orders="random", seed=1)]
    assert {item.label for item in planned(tokenizer, orders="chosen_second")} == {"B"}


def test_rows_say_everything_about_a_judgment(tokenizer: Any, judgments: list[Judgment], tmp_path: Path) -> None:
    log = run(Engines(tokenizer), judgments, tmp_path / "judgments.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "judgments.jsonl").read_text().splitlines()]
    assert len(lines) == 80
    assert all(tuple(line) != () and set(line) == set(COLUMNS) for line in lines)
    row = log.rows[judgments[0].key]
    assert row["text"].endswith(f"<answer>[[{row['verdict']}]]</answer>")
    assert (row["score"], row["label"]) == (float(row["verdict"] == "A"), "A")
    assert (row["tokens"], row["prompt_tokens"]) == (
        len(tokenizer.encode(row["text"])),
        len(judgments[0].token_ids),
    )
    # The verdict's letter stands in the token before the closing brackets.
    at = next(i for i, token in enumerate(tokenizer.encode(row["text"])) if row["verdict"] in tokenizer.decode([token]))
    assert row["verdict_logprob"] == pytest.approx(-0.01 * at)


def test_a_killed_evaluation_continues_to_the_same_figures(
    tokenizer: Any, judgments: list[Judgment], tmp_path: Path
) -> None:
    whole = run(Engines(tokenizer), judgments, tmp_path / "whole.jsonl")
    path = tmp_path / "killed.jsonl"
    with pytest.raises(RuntimeError, match="went away"):
        run(Engines(tokenizer, most=31), judgments, path)
    written = path.read_bytes()
    path.write_bytes(written[:-9])  # Killed in the middle of a line.
    engines = Engines(tokenizer)
    log = run(engines, judgments, path)
    kept = {tuple(json.loads(line)[name] for name in ("comparison", "order", "vote")) for line in
            written.splitlines()[:-1]}  # fmt: skip
    assert len(kept) == 30
    asked = {tuple(uid.split("/")[1:-2]) for uid in engines.asked}
    assert asked
    assert len(engines.asked) == 50
    assert ordered(judgments, log) == ordered(judgments, whole)
    assert len(path.read_text().splitlines()) == 80
    before, after = (results(find("builtin"), ordered(judgments, part), resamples=50) for part in (whole, log))
    assert before == after
    again = Engines(tokenizer)
    run(again, judgments, path)
    assert again.asked == []


def test_failed_generations_are_named_and_tried_again(
    tokenizer: Any, judgments: list[Judgment], tmp_path: Path
) -> None:
    victim = judgments[4].comparison.pair.id
    with pytest.raises(EvaluationFailed, match=r"4 of 80 judgments failed; first: builtin/.*engine_error: out of mem"):
        run(Engines(tokenizer, failing=f"/{victim}/"), judgments, tmp_path / "log.jsonl")
    engines = Engines(tokenizer)
    run(engines, judgments, tmp_path / "log.jsonl")
    assert len(engines.asked) == 4


def heldout(judgments: list[Judgment]) -> JudgingTask:
    """The first vote of each judgment as held-out pairs, both orders of a pair together."""
    prompts = [judgment.prompt() for judgment in judgments if judgment.vote == 0]
    pairs = {judgment.comparison.pair.id: judgment.comparison.pair for judgment in judgments}
    none_dropped: Any = None
    return JudgingTask(pairs, tuple(zip(prompts[::2], prompts[1::2], strict=True)), none_dropped)


def test_held_out_pairs_are_judged_as_benchmarks_are(tokenizer: Any, judgments: list[Judgment], tmp_path: Path) -> None:
    log = run(Engines(tokenizer), judgments, tmp_path / "log.jsonl")
    counts: list[int] = []
    found = asyncio.run(judge_heldout(Engines(tokenizer), heldout(judgments), CONFIG, counts.append))  # type: ignore[arg-type]
    first_votes = [judged_of(row) for row in ordered(judgments, log) if row["vote"] == 0]
    assert [(item.pair_id, item.order, item.verdict, item.tokens, item.text) for item in found] == [
        (item.pair_id, item.order, item.verdict, item.tokens, item.text) for item in first_votes
    ]
    assert summarise(found)["accuracy"] == summarise(first_votes)["accuracy"]
    assert {name for item in found for name in item.extras} == {"solution_correct", "true_first_rubric"}
    assert (counts[0], counts[-1]) == (3, 40)


def test_a_failed_judgment_of_a_held_out_pair_ends_the_evaluation(tokenizer: Any, judgments: list[Judgment]) -> None:
    victim = judgments[4].comparison.pair.id
    engines: Any = Engines(tokenizer, failing=f"/{victim}/")
    with pytest.raises(EvaluationFailed, match=r"2 of 40 judgments failed; first: builtin/.*engine_error: out of mem"):
        asyncio.run(judge_heldout(engines, heldout(judgments), CONFIG))


def test_a_log_of_other_prompts_or_weights_is_refused(
    tokenizer: Any, judgments: list[Judgment], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    run(Engines(tokenizer), judgments[:4], path)
    with pytest.raises(DataError, match=r"was judged with another weights \(0, now 1\)"):
        run(Engines(tokenizer), judgments, path, {**FACTS, "weights": "1"})
    rows = [json.loads(line) | {"prompt_hash": "other"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="was judged with another prompt_hash"):
        run(Engines(tokenizer), judgments, path)


def test_long_prompts_are_logged_and_not_judged(tokenizer: Any, judgments: list[Judgment], tmp_path: Path) -> None:
    lengths = sorted(len(item.token_ids) for item in judgments)
    with JudgmentLog(tmp_path / "log.jsonl") as log:
        waiting = pending(judgments, log, lengths[40], FACTS)
        assert len(waiting) == sum(length <= lengths[40] for length in lengths)
        assert {row["cause"] for row in log.rows.values()} == {"prompt_too_long"}
        assert len(log.rows) == 80 - len(waiting)


def test_a_comparison_that_is_there_twice_is_named(tokenizer: Any) -> None:
    comparisons = find("builtin").load(None)[:2]
    with pytest.raises(DataError, match="is there twice"):
        plan(find("builtin"), "b", [*comparisons, comparisons[0]], load_template("tiny"), tokenizer,
             orders="both", votes=1, seed=0)  # fmt: skip


def test_a_log_with_a_judgment_twice_or_of_something_else_is_refused(
    tokenizer: Any, judgments: list[Judgment], tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    run(Engines(tokenizer), judgments[:1], path)
    path.write_text(path.read_text() * 2)
    with pytest.raises(DataError, match=r"row 2: .* is judged twice"):
        JudgmentLog(path)
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="row 1: no judgment of this project"):
        JudgmentLog(path)
