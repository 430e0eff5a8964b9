"""The dashboard that a W&B server is sent, whom it shows, what it says where it cannot be made; and that its panels
find their numbers in a run's offline files, as W&B's own reader sends them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from configs import configured
from wandb_server import WandbServer, wandb_server

from pipelines.config import ConfigError
from pipelines.dashboard import dashboard
from pipelines.reporting.panels import SECTIONS, Panel
from pipelines.reporting.tracking import Tracker

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
KEY = "k" * 40


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server("tiny", "tiny-2") as started:
        yield started


def command(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.dashboard", f"output_root={folder}", *overrides],
        cwd=ROOT,
        env=clean | {"HOME": str(folder), "COLUMNS": "400"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def made(folder: Path, server: WandbServer, *overrides: str) -> list[dict[str, Any]]:
    """Workspace and report as the server got them from one command."""
    before = len(server.views)
    done = command(folder, *overrides, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    workspace, report = server.views[before:]
    assert (workspace["type"], report["type"]) == ("project-view", "runs")
    (entity,) = {view["entityName"] for view in (workspace, report)}
    assert f"workspace: {server.url}/{entity}/reasoning-reward-models?nw=" in done.stdout
    assert f"report: {server.url}/{entity}/reasoning-reward-models/reports/" in done.stdout
    return [workspace, report]


def charts(panels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]


def chart(title: str, stage: str, **more: Any) -> dict[str, Any]:
    return {"chartTitle": f"{title} ({stage})", "xAxis": f"{stage}/step"} | more


def expected(panel: Panel, stage: str) -> dict[str, Any]:
    (first, *_), names = panel.metrics(stage), [f"{stage}/{name}" for name in panel.metrics(stage)]
    found = chart(panel.title, stage, metrics=names)
    if first.endswith("/*"):
        found |= {"metrics": [], "useMetricRegex": True, "metricRegex": f"^{stage}/{first[:-1]}.+$"}
    if panel.stacked:
        found["plotType"] = "pct-area"
    if panel.unit == "seconds":
        found["yAxisTitle"] = "seconds"
    return found


def sections(workspace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    bank = workspace["spec"]["section"]["panelBankConfig"]
    return {section["name"]: charts(section["panels"]) for section in bank["sections"]}


def grids(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid"]


def filters(runset: dict[str, Any]) -> list[tuple[str, str, Any]]:
    text = json.dumps(runset["filters"])
    return [
        tuple(found) for found in re.findall(r'"name": "(\w+)".*?"op": "([^"]+)".*?"value": ("[^"]*"|\[[^]]*\])', text)
    ]


def test_the_workspace_has_every_panel_in_its_section_over_its_stages_own_steps(
    server: WandbServer, tmp_path: Path
) -> None:
    workspace, report = made(tmp_path, server)
    sent = sections(workspace)
    # Two by hand, then all by the list.
    assert chart("Accuracy", "rl", metrics=["rl/accuracy", "rl/eval/accuracy"]) in sent["Outcome by domain and order"]
    by_domain = {"metrics": [], "useMetricRegex": True, "metricRegex": "^rl/accuracy/domain/.+$"}
    assert chart("Training pairs, by domain", "rl", **by_domain) in sent["Outcome by domain and order"]
    wanted = {
        section.title: [
            expected(panel, stage) for stage in ("rl", "distill") for panel in section.panels if panel.metrics(stage)
        ]
        for section in SECTIONS
    }
    assert sent == wanted
    assert list(sent) == [section.title for section in SECTIONS]
    # The report has the same charts, under the same headings, after the runs' ends.
    assert [charts(grid["panelBankSectionConfig"]["panels"]) for grid in grids(report)] == [[], *wanted.values()]
    ends = grids(report)[0]["panelBankSectionConfig"]["panels"]
    assert [panel["config"].get("metrics") for panel in ends if panel["viewType"] == "Bar Chart"] == [
        ["accuracy"], ["consistent_accuracy"], ["flip_rate"], ["parse_rate"]
    ]  # fmt: skip
    assert [panel["viewType"] for panel in ends].count("Run Comparer") == 1
    # No two charts of a grid lie on one another.
    for grid in grids(report):
        places = [tuple(panel["layout"][side] for side in "xy") for panel in grid["panelBankSectionConfig"]["panels"]]
        assert len(set(places)) == len(places)


def test_named_runs_are_shown_and_set_side_by_side(server: WandbServer, tmp_path: Path) -> None:
    workspace, report = made(tmp_path, server, "tracking.runs=[tiny,tiny-2]", "tracking.entity=team")
    assert {view["entityName"] for view in (workspace, report)} == {"team"}
    (shown,) = workspace["spec"]["section"]["runSets"]
    assert filters(shown) == [("group", "IN", '["tiny", "tiny-2"]')]
    for grid in grids(report):
        assert [runs["name"] for runs in grid["runSets"]] == ["tiny", "tiny-2"]
        assert [filters(runs) for runs in grid["runSets"]] == [[("group", "=", '"tiny"')], [("group", "=", '"tiny-2"')]]


def test_a_second_time_replaces_the_first_unless_it_is_gone(server: WandbServer, tmp_path: Path) -> None:
    first = made(tmp_path, server, "tracking.runs=[tiny]")
    assert [view.get("id") for view in first] == [None, None]
    (kept,) = json.loads((tmp_path / "dashboards.json").read_text()).values()
    again = made(tmp_path, server, "tracking.runs=[tiny]")
    assert [view["id"] for view in again] == [kept["workspace"]["id"], kept["report"]["id"]]
    assert again[0]["name"] == first[0]["name"]
    server.gone = {kept["report"]["id"]}
    workspace, report = made(tmp_path, server, "tracking.runs=[tiny]")
    assert (workspace["id"], report.get("id")) == (kept["workspace"]["id"], None)
    # Of all runs there is another one, and of another project too; neither takes the place of the first.
    assert [view.get("id") for view in made(tmp_path, server)] == [None, None]
    assert [view.get("id") for view in made(tmp_path, server, "tracking.entity=team")] == [None, None]
    assert made(tmp_path, server, "tracking.runs=[tiny]")[0]["id"] == kept["workspace"]["id"]


ONLINE = {"WANDB_API_KEY": KEY}


@pytest.mark.parametrize(
    ("overrides", "environment", "says"),
    [
        (["tracking.runs=[tinny]"], ONLINE, r"no run 'tinny' is in W&B's project judges/reasoning-reward-models"),
        ([], {}, r"there is no login for it \(127.0.0.1:\d+\): set WANDB_API_KEY or run `wandb login`"),
        ([], ONLINE | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, r"at http://127.0.0.1:9 cannot be reached"),
        ([], {"WANDB_API_KEY": "short"}, r"refuses this login"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(
    server: WandbServer, tmp_path: Path, overrides: list[str], environment: dict[str, str], says: str
) -> None:
    done = command(tmp_path, *overrides, **({"WANDB_BASE_URL": server.url} | environment))
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(says, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert server.views == []


@pytest.mark.parametrize(
    ("overrides", "mode", "says"),
    [
        (["tracking.wandb=offline"], None, r"tracking.wandb is offline: `report.html` of a run has the same panels"),
        (["tracking=off"], "online", r"tracking.wandb is disabled"),
        ([], "offline", r"WANDB_MODE is offline"),
    ],
)
def test_offline_there_is_no_dashboard(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], mode: str | None, says: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    with pytest.raises(ConfigError, match=says):
        dashboard(configured("recipe=tiny", *overrides))


def test_a_server_that_refuses_is_named(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("permission denied")

    monkeypatch.setattr(server, "_save", refuse)
    done = command(tmp_path, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    assert done.returncode == 1
    assert "did not take the dashboard" in done.stderr
    assert "permission denied" in done.stderr
    assert not (tmp_path / "dashboards.json").exists()


def test_panels_find_their_numbers_in_what_wandb_reads_of_an_offline_run(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wandb sync` reads the run's files and sends them; every chart of a stage has a number there, and its steps."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    names = {name.replace("/*", "/one") for section in SECTIONS for panel in section.panels for name in panel.rl}
    with Tracker(tmp_path / "run", "rl", {"seed": 3}, "offline", group="tiny") as tracker:
        for step in (1, 2):
            tracker.log(step, {name: float(step) for name in names} | {"kl": float("nan")})
        tracker.alert("tiny: rl needs attention", "flat")
        tracker.summary({"accuracy": 0.75, "by_domain": {"Chat": {"accuracy": 0.5}}})
    wandb.teardown()
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    server.sync(offline, tmp_path)
    bucket = server.buckets[0]
    assert (bucket["groupName"], bucket["jobType"]) == ("tiny", "rl")
    assert [alert["title"] for alert in server.alerts] == ["tiny: rl needs attention"]
    rows = server.history()
    assert [row["rl/step"] for row in rows] == [1, 2]
    workspace, _ = made(tmp_path, server)
    drawn = [config for configs in sections(workspace).values() for config in configs if config["xAxis"] == "rl/step"]
    assert len(drawn) > 30
    found = {
        config["chartTitle"]: [
            {
                key: row[key]
                for key in row
                if key in config["metrics"] or re.search(config.get("metricRegex", "^$"), key)
            }
            for row in rows
        ]
        for config in drawn
    }
    assert all(len(first) == len(second) > 0 for first, second in found.values()), found
    assert found["Reward (rl)"] == [{"rl/reward": step, "rl/reward_std": step} for step in (1, 2)]
    assert found["Training pairs, by domain (rl)"] == [{"rl/accuracy/domain/one": step} for step in (1, 2)]
