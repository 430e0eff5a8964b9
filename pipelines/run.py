"""All stages, one after another, on one Ray cluster and one set of engines: prepare, distill, rl, report."""

from __future__ import annotations

from pipelines.config import Config
from pipelines.distill import distill
from pipelines.job.session import Session
from pipelines.planning.check import refuse_what_does_not_fit
from pipelines.prepare import prepare
from pipelines.reporting.console import Console
from pipelines.reporting.examples import examples_of
from pipelines.reporting.run_report import write_report
from pipelines.rl import rl
from pipelines.runs.command_line import main
from pipelines.stages.stage import open_run


def run(config: Config) -> None:
    """The whole story of a recipe; stages that are finished are passed over."""
    refuse_what_does_not_fit(config)
    with open_run(config) as folder:
        if config.data.train is None:
            prepare(config, folder)
        with Session(config, folder) as session:
            if config.rl.distil_first:
                distill(config, session)
            rl(config, session)
        report = write_report(folder.path)
        console = Console()
        summary = folder.summary()
        console.results({name: summary[name] for name in ("before", "distill", "rl") if name in summary})
        console.examples(examples_of(folder))
        console.report(report)


if __name__ == "__main__":
    main(run)
