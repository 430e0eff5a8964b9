"""Serve a judge over HTTP, on Ray Serve, until a signal ends it.

    python -m pipelines.serve serve.model=outputs/tiny/rl/hf [serve.port=8000] [serve.host=...] [serve.keys=file]

Without ``serve.model`` the last model of the run judges. ``/docs`` lists the routes.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

from pipelines.config import Config
from pipelines.job.session import Session
from pipelines.judgment.opening import judge_parts, judging_rule, without_learners
from pipelines.judgment.weights import weights_id
from pipelines.reporting.console import Console
from pipelines.runs import interruption
from pipelines.runs.command_line import main
from pipelines.serving.limits import check_port, read_keys
from pipelines.stages.stage import open_run


def command(config: Config) -> None:
    """Serve until a signal; status 128 and its number."""
    from pipelines.serving.deployment import await_replicas, deploy, served_of, withdraw

    section, console = config.serve, Console()
    keys = read_keys(section.keys, section.host)
    check_port(section.host, section.port)
    model = judge_parts(config, section).model
    home = Path(config.output_root) / config.run / "serve"
    own = replace(without_learners(config), output_root=str(home), run=f"port-{section.port}")
    console.header("serve", model)
    with open_run(own) as run, Session(own, run) as session:
        try:
            session.connect()
            rule, logs = judging_rule(config, section), str(run.logs)
            served = served_of(config, model, weights_id(model), rule, keys, logs)
            # A third of the time that a process has to end is for what comes after: actors, engines, the cluster.
            deploy(config, served, config.cluster.grace * 2 / 3)
            # Ray and Serve install handlers of their own.
            interruption.install()
            await_replicas(config.cluster.start_timeout, logs)
            console.note(f"http://{section.host}:{section.port}/docs; Ctrl-C ends it")
            while True:
                signal.pause()
        except KeyboardInterrupt as error:
            name, _, status = interruption.described(error)
            with interruption.shielded():
                console.note(f"{name}: no more requests are taken")
                withdraw()
    sys.exit(status)


if __name__ == "__main__":
    main(command)
