"""Dashboards of runs on W&B: a workspace with sections of panels, and a report that sets runs side by side.

    python -m pipelines.dashboard                                  # or: make dashboard; all runs of the project
    python -m pipelines.dashboard 'tracking.runs=[tiny,tiny-2]'    # or: make dashboard RUN="tiny tiny-2"

A second time it replaces what it made before. Without a server ``report.html`` of a run has the same panels.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.config import Config, ConfigError
from pipelines.reporting.console import Console
from pipelines.reporting.dashboards import open_server, publish, refuse_unknown
from pipelines.runs.command_line import main


def dashboard(config: Config) -> None:
    """Write workspace and report, and print where they are.

    Raises:
        DashboardError: there is no server, login or run to make them of.
        ConfigError: tracking is off or offline.

    """
    tracking = config.tracking
    mode = os.environ.get("WANDB_MODE", "") if tracking.wandb == "auto" else tracking.wandb
    if mode in ("offline", "disabled"):
        origin = "WANDB_MODE" if tracking.wandb == "auto" else "tracking.wandb"
        raise ConfigError(
            f"a dashboard is kept by W&B's server, and {origin} is {mode}: `report.html` of a run has the same panels; "
            "for a dashboard set tracking.wandb=online, and send runs that were tracked offline by `wandb sync`"
        )
    console = Console()
    console.header("dashboard", f"W&B's project {tracking.project}")
    api, place = open_server(tracking.project, tracking.entity, os.environ, Path.home())
    refuse_unknown(api, place, tracking.runs)
    made = publish(place, tracking.runs, Path(config.output_root) / "dashboards.json")
    for kind, url in made.items():
        console.note(f"{kind}: {url}")


if __name__ == "__main__":
    main(dashboard)
