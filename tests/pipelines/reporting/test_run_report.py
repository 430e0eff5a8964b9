"""The report: the right figures and traces, whole files only, and nothing in the data that can break out."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.reporting.pages import render_page
from pipelines.reporting.report_traces import select_traces
from pipelines.reporting.run_report import (
    headline,
    read_metrics,
    report_data,
    thin,
    write_report,
)
from pipelines.reporting.tracking import TRACE_COLUMNS, Tracker

HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> &lt; &amp; \u2028 \u2029 \ud800 \x00 "
    "{{ data }} {% raw %} {# </SCRIPT > ]]> \\u003c/script\\u003e"
)


def trace(**changes: Any) -> dict[str, Any]:
    row = dict.fromkeys(TRACE_COLUMNS)
    row |= {"stage": "rl", "step": 10, "pair_id": "p0", "order": "chosen_first", "domain": "Chat", "sample": 0}
    row |= {"question": "q", "response_a": "a", "response_b": "b", "label": "A", "text": "t", "verdict": "A"}
    row |= {"reward": 1.0, "tokens": 5, "finish_reason": "stop", "min_version": 1, "max_version": 1}
    return row | changes


def write_traces(directory: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (directory / "traces").mkdir(exist_ok=True)
    path = directory / "traces" / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def embedded(page: str) -> dict[str, Any]:
    """What a browser reads: the text of the data element up to the first end tag."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL | re.IGNORECASE)
    assert found
    return json.loads(found.group(1))


def shown(traces: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    places = [traces["columns"].index(name) for name in names]
    return [tuple(row[place] for place in places) for row in traces["rows"]]


def row(accuracy: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "n": 600, "mean_tokens": 38.25} | more


def test_an_empty_run_gives_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    page = write_report(tmp_path).read_text()
    data = embedded(page)
    assert data["headline"] == {"columns": [], "rows": []}
    assert data["series"] == {}
    assert [note.split(":")[0] for note in data["notes"]] == [
        "No results yet",
        "No learning curves yet",
        "No traces yet",
    ]


def test_the_report_holds_what_the_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {"run": "mine", "seed": 3, "recipe": "tiny", "rl": row(0.9), "seconds": {"rl": 9.5}, "data": {"rl": "ff"}}
        )
    )
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    with Tracker(tmp_path, "rl", {}, "disabled") as tracker:
        tracker.log(1, {"reward": 0.25, "kl": float("nan")})
        tracker.log(2, {"reward": 0.75})
    write_traces(tmp_path, "rl", [trace()])
    data = embedded(write_report(tmp_path).read_text())
    assert (data["run"], data["seed"], data["recipe"], data["config"]) == ("mine", 3, "tiny", "seed: 3\n")
    assert data["seconds"] == {"rl": 9.5}
    assert data["data"] == {"rl": "ff"}
    assert data["series"] == {"rl": {"reward": [[1, 0.25], [2, 0.75]]}}
    assert data["notes"] == ["rl kl: 1 values are not finite numbers and are left out of the curve."]
    assert shown(data["traces"], "question", "verdict", "flipped") == [("q", "A", False)]


def test_hostile_text_stays_data(tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "")  # Parquet holds no lone surrogates; JSON does.
    write_traces(tmp_path, "rl", [trace(question=text, text=text, response_a=text, pair_id=text, domain=text)])
    (tmp_path / "summary.json").write_text(json.dumps({"run": HOSTILE, "rl": row(0.5, by_domain={HOSTILE: row(0.5)})}))
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"stage": "rl", "step": 1, "metrics": {HOSTILE: 1}}) + "\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    empty = render_page("reporting/report.html.jinja", {})
    for tag in ("<script", "</script", "<!--", "<img"):
        assert page.lower().count(tag) == empty.lower().count(tag)
    data = embedded(page)
    assert data["run"] == HOSTILE
    assert shown(data["traces"], "question", "text", "response_a", "pair_id", "domain") == [(text,) * 5]
    assert data["headline"]["columns"][1] == HOSTILE
    assert list(data["series"]["rl"]) == [HOSTILE]


@pytest.mark.parametrize("name", ["reporting/report.html.jinja", "evaluation/report.html.jinja"])
def test_the_page_loads_nothing_and_writes_no_markup(name: str) -> None:
    page = render_page(name, {})
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", page)
    assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\(", page)
    assert "{{" not in page
    assert "{%" not in page


def test_a_failed_write_keeps_the_old_report_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path)
    before = (tmp_path / "report.html").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("actors.files.os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before


def test_headline_has_a_row_a_stage_and_a_column_a_metric() -> None:
    domains = {"Reasoning": row(0.7), "Chat": row(0.9, accuracy_ci=[0.85, 0.95])}
    rl = row(0.8125, accuracy_ci=[0.78, 0.84], by_domain=domains, extras={"true_first_rubric": 0.5})
    rl |= {"parse_rate": 0.99, "parse_failures": {"none_found": 12}}
    table = headline({"before": row(0.0, parse_rate=0.0), "distill": None, "rl": rl})
    assert table["columns"] == ["accuracy", "Chat", "Reasoning", "verdict read", "tokens", "pairs", "true first rubric"]
    before, after = table["rows"]
    assert (before["stage"], after["stage"]) == ("before", "rl")
    assert [cell["text"] for cell in before["cells"]] == ["0.0%", "–", "–", "0.0%", "38.2", "600", "–"]
    assert [cell["text"] for cell in after["cells"]] == ["81.2%", "90.0%", "70.0%", "99.0%", "38.2", "600", "50.0%"]
    assert [cell["detail"] for cell in after["cells"][:4]] == ["78.0–84.0", "85.0–95.0", "", "12 none found"]


def test_the_later_line_of_a_step_counts_and_broken_lines_are_counted(tmp_path: Path) -> None:
    lines = [
        {"stage": "rl", "step": 2, "metrics": {"reward": 0.1}},
        {"stage": "rl", "step": 1, "metrics": {"reward": 0.2, "eval/accuracy": 0.9}},
        {"stage": "rl", "step": 2, "metrics": {"reward": 0.3, "kl": "Infinity"}},
        {"stage": "distill", "step": 1, "metrics": {"loss": 1.0}},
        {"stage": "distill", "step": "x", "metrics": {"loss": 1.0}},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n[]\n{"stage": "r')
    notes: list[str] = []
    series = read_metrics(tmp_path / "metrics.jsonl", notes)
    assert series == {
        "rl": {"reward": [(1, 0.2), (2, 0.3)], "eval/accuracy": [(1, 0.9)]},
        "distill": {"loss": [(1, 1.0)]},
    }
    assert notes[0] == "metrics.jsonl: 3 lines cannot be read and are left out."
    assert notes[1].startswith("rl kl: 1 values")


def test_thinned_curves_keep_their_mean() -> None:
    points = [(float(step), float(step % 7)) for step in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, sum(step % 7 for step in range(10)) / 10)
    assert sum(y for _, y in thinned) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thin(points[:100], 100) == points[:100]


def test_flipped_means_both_orders_read_and_different_responses_named(tmp_path: Path) -> None:
    second: dict[str, Any] = {"order": "chosen_second", "label": "B"}
    rows = [
        trace(pair_id="steady"),
        trace(pair_id="steady", verdict="B", **second),
        trace(pair_id="always-a"),
        trace(pair_id="always-a", verdict="A", **second),
        trace(pair_id="unread"),
        trace(pair_id="unread", verdict=None, **second),
        trace(pair_id="other-step", verdict="B", step=9),
        trace(pair_id="other-step"),
        trace(pair_id="other-sample", verdict="B", sample=1),
        trace(pair_id="other-sample", verdict="B", **second),
    ]
    traces = select_traces([write_traces(tmp_path, "rl", rows)], [])
    assert traces["total"] == traces["shown"] == 10
    assert {pair for pair, flipped in shown(traces, "pair_id", "flipped") if flipped} == {"always-a"}


def test_a_large_run_shows_whole_pairs_of_every_stage_and_its_last_step_first(tmp_path: Path) -> None:
    files = []
    for stage in ("before", "rl"):
        rows = [
            trace(stage=stage, step=step, pair_id=f"p{pair}", order=order, text="x" * 97)
            for step in (1, 2)
            for pair in range(20)
            for order in ("chosen_first", "chosen_second")
        ]
        files.append(write_traces(tmp_path, stage, rows))
    traces = select_traces(files, [], max_rows=100)
    assert (traces["total"], traces["shown"]) == (160, 100)
    keys = shown(traces, "stage", "step", "pair_id")
    assert all(keys.count(key) == 2 for key in keys)
    assert [sum(key[:2] == wanted for key in keys) for wanted in (("rl", 2), ("rl", 1), ("before", 2))] == [40, 10, 40]
    assert keys[0][:2] == ("rl", 2)
    assert select_traces(files, [], max_rows=100) == traces
    # What a small stage leaves goes to the others.
    small = write_traces(tmp_path, "distill", [trace(stage="distill")])
    assert select_traces([*files, small], [], max_rows=101)["shown"] == 101
    # A trace has 100 characters: 97 of text, one each of the question and the responses.
    assert select_traces(files, [], max_characters=2000)["shown"] == 20


def test_heldout_judgments_come_first_and_are_told_from_training(tmp_path: Path) -> None:
    training = write_traces(
        tmp_path, "rl-step-000120", [trace(step=120, pair_id=f"p{i}", verdict="B") for i in range(9)]
    )
    heldout = write_traces(
        tmp_path, "heldout-rl", [trace(step=120, pair_id="p0", order="chosen_second", label="B", verdict="B")]
    )
    traces = select_traces([heldout, training], [], max_rows=4)
    found = shown(traces, "set", "pair_id", "flipped")
    assert found[0] == ("held out", "p0", False)
    assert [name for name, _, _ in found[1:]] == ["training"] * 3


def test_damaged_trace_files_are_named_and_the_rest_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = write_traces(tmp_path, "b-good", [trace(verdict=None, cause="truncated")])
    write_traces(tmp_path, "a-narrow", [{"stage": "rl", "step": 1}])
    (tmp_path / "traces" / "c-torn.parquet").write_bytes(good.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        data = report_data(tmp_path)
    assert shown(data["traces"], "cause") == [("truncated",)]
    named = [note.split(" is left out")[0] for note in data["notes"] if note.startswith("traces/")]
    assert named == ["traces/a-narrow.parquet", "traces/c-torn.parquet"]
    assert len(caplog.records) == 2


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_damaged_summary_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    assert any(note.startswith("summary.json") for note in report_data(tmp_path)["notes"])
