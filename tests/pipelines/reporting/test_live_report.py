"""The page while a run goes: when it is written, what it costs, and that a killed run leaves a whole one."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.files import TEMPORARY
from pipelines.reporting import live_report
from pipelines.reporting.live_report import LiveReport
from pipelines.reporting.run_report import charts, latest, report_data, write_report
from pipelines.reporting.tracking import TRACE_COLUMNS, Tracker

ROOT = Path(__file__).resolve().parents[3]


def shown(folder: Path) -> dict[str, Any]:
    page = (folder / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL)
    assert found
    assert page.rstrip().endswith("</html>")
    return json.loads(found.group(1))


class Clock:
    """Time that passes only where a test says so; writing takes ``cost`` of it."""

    def __init__(self, cost: float) -> None:
        self.time, self.cost, self.pages = 0.0, cost, 0

    def __call__(self) -> float:
        return self.time

    def write(self, folder: Path, under_way: bool) -> None:
        assert under_way
        self.time += self.cost
        self.pages += 1


def writing(monkeypatch: pytest.MonkeyPatch, cost: float) -> tuple[LiveReport, Clock]:
    clock = Clock(cost)
    monkeypatch.setattr(live_report, "write_report", clock.write)
    return LiveReport(Path("run"), clock), clock


@pytest.mark.parametrize(("cost", "of_note", "most"), [(0.2, False, 1.0), (10.0, False, 5.0), (10.0, True, 5.0)])
def test_it_is_written_once_a_minute_or_at_what_is_of_note_and_costs_a_twentieth(
    monkeypatch: pytest.MonkeyPatch, cost: float, of_note: bool, most: float
) -> None:
    report, clock = writing(monkeypatch, cost)
    report.write()
    while clock.time < 36_000:
        clock.time += 1.0
        report.after_step(of_note)
    assert clock.pages * cost / clock.time <= most / 100 + 1e-3
    assert clock.pages > 100


def test_what_is_of_note_does_not_wait_for_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    report, clock = writing(monkeypatch, 0.1)
    pages = []
    for of_note in (False, False, True, False):
        clock.time += 3.0
        report.after_step(of_note)
        pages.append(clock.pages)
    assert pages == [1, 1, 2, 2]


def test_a_page_that_cannot_be_written_is_warned_of_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        LiveReport(tmp_path).write()
    assert "report.html cannot be written" in caplog.text


def test_a_page_of_a_run_under_way_has_the_latest_traces_and_says_when_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    for step in range(1, 9):
        row = dict.fromkeys(TRACE_COLUMNS, "x") | {"stage": "rl", "step": step, "sample": 0, "tokens": 1}
        row |= {"pair_id": f"p{step}", "reward": 1.0, "min_version": 1, "max_version": 1}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "traces" / f"rl-rollouts-{step:06d}.parquet")
    step = TRACE_COLUMNS.index("step")
    assert [row[step] for row in report_data(tmp_path, under_way=True)["traces"]["rows"]] == [8, 7, 6, 5]
    assert len(report_data(tmp_path)["traces"]["rows"]) == 8
    write_report(tmp_path, under_way=True)
    assert shown(tmp_path)["under_way"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown(tmp_path)["written"])
    write_report(tmp_path)
    assert not shown(tmp_path)["under_way"]


def test_held_out_files_are_kept_beside_the_latest() -> None:
    files = [Path(f"rl-rollouts-{step:06d}.parquet") for step in range(9)]
    names = [file.stem for file in latest([*files, Path("heldout-before.parquet"), Path("heldout-rl.parquet")], 2)]
    assert names == ["heldout-before", "heldout-rl", "rl-rollouts-000007", "rl-rollouts-000008"]


def test_every_number_of_the_run_is_on_the_page_once(tmp_path: Path) -> None:
    with Tracker(tmp_path, "rl", {}, "disabled") as tracker:
        tracker.log(
            1, {"accuracy": 0.5, "accuracy/domain/Chat": 0.5, "time/learn": 1.0, "mine": 2.0, "weight_version": 1}
        )
    panels = report_data(tmp_path)["panels"]
    assert [(panel["section"], panel["title"], panel["lines"]) for panel in panels] == [
        ("Outcome by domain and order", "Accuracy", ["accuracy"]),
        ("Outcome by domain and order", "Training pairs, by domain", ["accuracy/domain/Chat"]),
        ("Speed, and where a step's time goes", "Where a step's time goes", ["time/learn"]),
        (None, "mine", ["mine"]),
    ]
    assert [panel["stacked"] for panel in panels] == [False, False, True, False]
    assert [panel["lines"] for panel in charts("benchmarks", ["rmb/accuracy"])] == [["rmb/accuracy"]]


_WRITER = """
import sys
from pathlib import Path
from pipelines.reporting.live_report import LiveReport
from pipelines.reporting.tracking import Tracker
folder = Path(sys.argv[1])
report, tracker, step = LiveReport(folder), Tracker(folder, "rl", {}, "disabled"), 0
while True:
    step += 1
    tracker.log(step, {"reward": float(step), "tokens": 7.0})
    report.write()
    print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pages", [1, 3])
def test_a_run_that_is_killed_leaves_a_whole_page(tmp_path: Path, pages: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        for _ in range(pages):
            process.stdout.readline()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    steps = [point[0] for point in shown(tmp_path)["series"]["rl"]["reward"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= pages
    assert [name.name for name in tmp_path.iterdir() if TEMPORARY not in name.name].count("report.html") == 1
