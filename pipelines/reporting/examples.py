"""Which judgments of a finished run are shown on the terminal: one right and one wrong, the same for every reader."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from pipelines.reporting.console import JudgmentExample
from pipelines.runs.folder import RunDirectory


def examples_of(run: RunDirectory) -> list[JudgmentExample]:
    """Two held-out judgments of the last stage that has any: the first right one and the first wrong one."""
    for stage in ("rl", "distill", "before"):
        path = run.traces / f"heldout-{stage}.parquet"
        if path.is_file():
            rows = pq.read_table(path).to_pylist()
            right = [row for row in rows if row["verdict"] == row["label"]]
            wrong = [row for row in rows if row["verdict"] != row["label"]]
            return [_example(row, stage) for row in (right[:1] + wrong[:1])]
    return []


def _example(row: dict[str, Any], stage: str) -> JudgmentExample:
    return JudgmentExample(
        question=row["question"],
        response_a=row["response_a"],
        response_b=row["response_b"],
        text=row["text"],
        label=row["label"],
        verdict=row["verdict"],
        title=f"{row['domain']}, after {stage}",
    )
