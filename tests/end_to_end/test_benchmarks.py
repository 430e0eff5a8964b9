"""Benchmarks judged by real engines: killed in the middle, continued, and the same as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import Runs, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = (
    "evaluate.limit=12",
    "evaluate.votes=2",
    "evaluate.temperature=1.0",
    "tracking=off",
    "cluster.start_timeout=900",
)


@pytest.fixture(scope="module")
def arguments(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A prepared run with its model, and a file of pairs with one that is too long."""
    runs("prepare", "judge", "data.distill_pairs=100", "data.rl_pairs=10", "data.heldout_pairs=40", "tracking=off")
    rows = [
        {"id": f"p{n}", "domain": "chat", "prompt": f"write {n}", "chosen": "a b", "rejected": "c"} for n in range(9)
    ]
    rows.append(rows[0] | {"id": "long", "prompt": "word " * 2000})
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"evaluate.benchmarks=[builtin,'{path}']", "evaluate.label=killed", *SETTINGS]


def folder(runs: Runs) -> Path:
    return runs.path("judge") / "evaluations" / "killed"


def log(runs: Runs) -> list[dict[str, Any]]:
    """The judgments of the evaluation, as they stand."""
    path = folder(runs) / "judgments.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], str]:
    """Texts by what was judged."""
    return {(row["benchmark"], row["comparison"], row["order"], row["vote"]): row["text"] for row in rows}


def test_a_killed_evaluation_ends_like_a_whole_one(runs: Runs, arguments: list[str]) -> None:
    # One after another: it is not at its end when a busy machine has found twenty.
    process = runs.start("evaluate", "judge", *arguments, "rollout.max_sequences=1")
    wait_until(lambda: process.poll() is not None or len(log(runs)) > 20, 900, "the first judgments")
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    rows = log(runs)
    before = by_key(rows)
    assert 20 < len(before) == len(rows) < 88
    # The last ten are taken away, to be made again beside others than at first. (The first are of prompts too long.)
    journal = folder(runs) / "judgments.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[: len(rows) - 10]))
    again = runs("evaluate", "judge", *arguments)
    assert f"88 judgments, {88 - len(before) + 10} to make" in again
    assert "4 not judged because their prompt is too long" in again
    rows = log(runs)
    assert len(rows) == 88
    after = by_key(rows)
    assert len(after) == 88
    # Sampled by a seed of its own, a judgment does not depend on what else the engine did.
    assert {key: after[key] for key in before} == before
    results = json.loads((folder(runs) / "results.json").read_text())
    assert set(results["benchmarks"]) == {"builtin", "mine"}
    assert (folder(runs) / "report.html").stat().st_size > 20_000
    assert pq.read_table(folder(runs) / "judgments.parquet").num_rows == 88


def test_other_settings_are_refused_and_nothing_is_judged_twice(runs: Runs, arguments: list[str]) -> None:
    error = runs("evaluate", "judge", *arguments, "evaluate.votes=3", status=1)
    assert "begun with other settings (evaluate.votes: was 2, is 3)" in error
    out = runs("evaluate", "judge", *arguments)
    assert "88 judgments, 0 to make" in out
    error = runs("evaluate", "judge", "evaluate.benchmarks=[rewardbench]", "evaluate.label=x", "tracking=off", status=1)
    assert "there is no benchmark 'rewardbench'" in error
