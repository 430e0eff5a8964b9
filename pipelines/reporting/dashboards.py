"""W&B's workspace and report of runs, made from the panels of ``pipelines/reporting/panels.py``.

A workspace is a project's page with our sections and panels, a report a page that sets runs side by side. Both are kept
by W&B's server. What was made is noted in a file, so that making it again replaces it.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from actors.errors import UserError
from actors.files import write_text
from actors.redaction import redact
from pipelines.reporting.panels import FINAL, SECTIONS, STAGES, Panel
from pipelines.reporting.wandb_mode import has_credentials, server_hosts

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

_CONNECT_SECONDS = 10.0
_SIZE = {"w": 8, "h": 6}
"""Of a chart in a report, whose grid has 24 columns."""


class DashboardError(UserError, RuntimeError):
    """No dashboard can be made; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dashboard is kept."""

    server: str
    entity: str
    project: str


def open_server(
    project: str, entity: str | None, environment: Mapping[str, str], home: Path
) -> tuple[wandb.Api, Place]:
    """W&B's server and the project there.

    Raises:
        DashboardError: there is no login, nobody answers, or the login is refused.

    """
    hosts = server_hosts()
    offline = "`report.html` of a run has the same panels without a server"
    if not has_credentials(environment, home, hosts):
        raise DashboardError(
            f"a dashboard is kept by W&B's server, and there is no login for it ({hosts[0] if hosts else 'W&B'}): set "
            f"WANDB_API_KEY or run `wandb login`; {offline}"
        )
    import wandb

    server = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    url = urlsplit(server)
    try:
        socket.create_connection(
            (url.hostname or "", url.port or (80 if url.scheme == "http" else 443)), _CONNECT_SECONDS
        ).close()
    except OSError as error:
        raise DashboardError(
            f"W&B's server at {server} cannot be reached ({error}): run this where there is a network, or set "
            f"WANDB_BASE_URL to your own server; {offline}"
        ) from error
    try:
        api = wandb.Api()
        owner = entity or environment.get("WANDB_ENTITY") or api.default_entity
    except Exception as error:
        raise DashboardError(
            f"W&B's server at {server} refuses this login ({_one_line(error)}): run `wandb login`"
        ) from error
    if not owner:
        raise DashboardError(
            f"the login at {server} has no default entity: set tracking.entity to a user or team of W&B"
        )
    return api, Place(server, owner, project)


def refuse_unknown(api: wandb.Api, place: Place, runs: Sequence[str]) -> None:
    """Refuse runs that the project does not have, and a project without any."""
    path = f"{place.entity}/{place.project}"
    for name in runs or ("",):
        filters = {"group": name} if name else {}
        try:
            count = len(api.runs(path, filters=filters, per_page=1))
        except ValueError:
            count = 0
        except Exception as error:
            raise DashboardError(f"W&B's server at {place.server} does not list {path} ({_one_line(error)})") from error
        if not count:
            what = f"no run {name!r}" if name else "no run"
            raise DashboardError(
                f"{what} is in W&B's project {path} at {place.server}: check RUN=, tracking.project and "
                "tracking.entity; of a run that was tracked offline, send the files first: "
                "`wandb sync outputs/RUN/wandb/offline-run-*`"
            )


def line_plot(stage: str, panel: Panel) -> wr.LinePlot:
    """A panel's chart for one stage, over the stage's own steps."""
    import wandb_workspaces.reports.v2 as wr

    names = [f"{stage}/{name}" for name in panel.metrics(stage)]
    family = names[0][:-1] if names[0].endswith("/*") else None
    what: dict[str, Any] = {"metric_regex": f"^{re.escape(family)}.+$"} if family else {"y": names}
    if panel.stacked:
        what["plot_type"] = "pct-area"
    if panel.unit == "seconds":
        what["title_y"] = "seconds"
    return wr.LinePlot(title=f"{panel.title} ({stage})", x=f"{stage}/step", layout=wr.Layout(**_SIZE), **what)


def _line_plots(panels: Sequence[Panel]) -> list[wr.LinePlot]:
    return [line_plot(stage, panel) for stage in reversed(STAGES) for panel in panels if panel.metrics(stage)]


def workspace_of(place: Place, runs: Sequence[str]) -> ws.Workspace:
    """The sections and panels as a workspace, which shows these runs; none: all of the project."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    return ws.Workspace(
        entity=place.entity,
        project=place.project,
        name=f"Judges: {', '.join(runs)}" if runs else "Judges",
        sections=[
            ws.Section(
                name=section.title,
                panels=_line_plots(section.panels),
                is_open=index == 0,
                layout_settings=ws.SectionLayoutSettings(columns=3, rows=3),
            )
            for index, section in enumerate(SECTIONS)
        ],
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("Group").isin(list(runs))] if runs else [],
            pinned_columns=[f"summary:{name}" for name in FINAL],
        ),
    )


def report_of(place: Place, runs: Sequence[str]) -> wr.Report:
    """A page that sets runs side by side: what they ended with, what is different about them, and every section."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    def grid(panels: Sequence[Any]) -> wr.PanelGrid:
        sets = [
            wr.Runset(place.entity, place.project, name, filters=[expr.Metric("Group") == name]) for name in runs
        ] or [wr.Runset(place.entity, place.project, "all runs")]
        return wr.PanelGrid(runsets=sets, panels=list(panels))

    ends = [wr.BarPlot(title=f"{name} at the end", metrics=[name], layout=wr.Layout(**_SIZE)) for name in FINAL]
    blocks: list[Any] = [
        wr.P(
            "Every stage of a run is one run of W&B; its group is the run's name. docs/metrics.md says what is healthy."
        ),
        wr.H1("Where they ended, and how they differ"),
        grid([*ends, wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=9))]),
    ]
    for section in SECTIONS:
        blocks += [wr.H1(section.title), grid(_line_plots(section.panels))]
    title = f"Judges side by side: {', '.join(runs)}" if runs else "Judges side by side"
    return wr.Report(
        project=place.project,
        entity=place.entity,
        title=title[:128],
        description="Written by `make dashboard`.",
        blocks=blocks,
        width="fluid",
    )


def publish(place: Place, runs: Sequence[str], notes: Path) -> dict[str, str]:
    """Save both with W&B's server, in place of those that ``notes`` names; their addresses.

    Raises:
        DashboardError: the server refuses.

    """
    known = _read(notes)
    which = f"{place.server}/{place.entity}/{place.project}: {', '.join(runs) or 'all runs'}"
    kept = known.get(which, {})
    made = {
        "workspace": _saved(lambda old: _save_workspace(place, runs, old), kept.get("workspace"), place),
        "report": _saved(lambda old: _save_report(place, runs, old), kept.get("report"), place),
    }
    notes.parent.mkdir(parents=True, exist_ok=True)
    write_text(notes, json.dumps(known | {which: made}, indent=2, ensure_ascii=False) + "\n")
    return {kind: view["url"] for kind, view in made.items()}


def _save_workspace(place: Place, runs: Sequence[str], old: Mapping[str, str] | None) -> dict[str, str]:
    workspace = workspace_of(place, runs)
    # wandb-workspaces 0.4.5 makes a new view's name by a function that wandb 0.31 no longer has.
    letters = string.ascii_lowercase + string.digits
    workspace._internal_name = old["name"] if old else f"nw-{''.join(secrets.choice(letters) for _ in range(11))}-v"
    workspace._internal_id = old["id"] if old else ""
    workspace.save()
    return {"id": workspace._internal_id, "name": workspace._internal_name, "url": workspace.url}


def _save_report(place: Place, runs: Sequence[str], old: Mapping[str, str] | None) -> dict[str, str]:
    report = report_of(place, runs)
    if old:
        report.id = old["id"]
    report.save()
    return {"id": report.id, "url": report.url}


def _saved(
    save: Callable[[Mapping[str, str] | None], dict[str, str]], old: Mapping[str, str] | None, place: Place
) -> dict[str, str]:
    """Save over the old one; where that is gone, a new one."""
    for before in (old, None) if old else (None,):
        try:
            return save(before)
        except Exception as error:
            if before is None:
                raise DashboardError(
                    f"W&B's server at {place.server} did not take the dashboard ({_one_line(error)})"
                ) from error
    raise AssertionError("the last try either returned or raised")


def _read(notes: Path) -> dict[str, dict[str, dict[str, str]]]:
    """What was made before, by place and runs; nothing where the notes cannot be read."""
    try:
        found = json.loads(notes.read_text(encoding="utf-8"))
        return {which: {kind: made[kind] for kind in ("workspace", "report")} for which, made in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(redact(str(error)).split())[:300]}"
