"""What commands write of decisions: rows by a file's suffix, a preference set, and a page to read them in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.files import atomic_path, write_text
from pipelines.data.schema import PreferencePair, write_pairs
from pipelines.evaluation.quotes import Span, marks
from pipelines.judgment.decision import Decision
from pipelines.loop.records import question_text
from pipelines.reporting.pages import write_page

Judged = Sequence[tuple[PreferencePair, Decision]]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSON lines or parquet, by the suffix, whole or not at all; parquet holds what is nested as JSON text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [{key: _cell(value) for key, value in row.items()} for row in rows]
    with atomic_path(path) as partial:
        pq.write_table(pa.Table.from_pylist(flat), partial)


def _cell(value: Any) -> Any:
    nested = isinstance(value, Mapping | list | tuple)
    return json.dumps(value, allow_nan=False) if nested else value


def preferred(judged: Judged) -> list[PreferencePair]:
    """The pairs that have a winner, labelled by the decision; ties are left out."""
    return [_labelled(pair, decision) for pair, decision in judged if decision.winner != "tie"]


def _labelled(pair: PreferencePair, decision: Decision) -> PreferencePair:
    confidence = {"confidence": round(decision.confidence, 6), "judge": decision.model}
    labelled = replace(pair, metadata={**pair.metadata, **confidence}, given_label=None)
    if decision.winner == "a":
        return labelled
    if pair.ready_made:
        labelled = replace(labelled, metadata={**labelled.metadata, "winner": "B"})
    return replace(labelled, chosen=pair.rejected, rejected=pair.chosen)


def write_preferences(path: Path, judged: Judged) -> int:
    """Write the pairs that have a winner as a set that `make data` takes; how many they are. Without any, no file."""
    pairs = preferred(judged)
    if pairs:
        write_pairs(pairs, path)
    else:
        path.unlink(missing_ok=True)
    return len(pairs)


def write_decisions_page(path: Path, judged: Judged, title: str, most: int) -> None:
    """A page of the first ``most`` decisions: question, responses with what was quoted of them, both judgments."""
    rows = [_readable(pair, decision) for pair, decision in judged[:most]]
    write_page(path, "judgment/decisions.html.jinja", {"title": title, "total": len(judged), "rows": rows})


def _readable(pair: PreferencePair, decision: Decision) -> dict[str, Any]:
    quoted = quoted_passages(decision, pair.chosen, pair.rejected)
    return {
        "id": pair.id,
        "question": question_text(pair),
        "response_a": pair.chosen,
        "response_b": pair.rejected,
        "marks_a": quoted["a"],
        "marks_b": quoted["b"],
        **decision.as_json(),
    }


def quoted_passages(decision: Decision, response_a: str, response_b: str) -> dict[str, list[Span]]:
    """The passages of ``a`` and of ``b`` that the judgments quote, in order and apart from each other."""
    marked: dict[str, list[Span]] = {"a": [], "b": []}
    for vote in decision.votes:
        sides = (("a", "A"), ("b", "B")) if vote.order == "a_first" else (("a", "B"), ("b", "A"))
        for name, side in sides:
            text = response_a if name == "a" else response_b
            marked[name] += marks(vote.text, text, side)[0]  # type: ignore[arg-type]
    return {name: _merged(spans) for name, spans in marked.items()}


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
