"""What ties a job's actors to its run: names and variables by which the next driver finds what is left of them."""

from __future__ import annotations

import logging
import os

from actors.placement import Placement, reserve
from actors.predecessor import end_predecessor, environment_of, group_name
from pipelines.config import Config
from pipelines.job.settings import actors_environment, allocator, roles
from pipelines.runs.folder import RunDirectory

log = logging.getLogger(__name__)


def reserved(config: Config, run: RunDirectory) -> Placement:
    """Reserve what all actors take, when what a driver of this run that died has left is ended.

    Raises:
        ClusterTooSmall: see :func:`actors.placement.reserve`.

    """
    if left := end_predecessor(run.identity):
        log.warning("a driver of this run that died had left %s: ended now", ", ".join(left))
    return reserve(roles(config), config.cluster.ready_timeout, group_name(run.identity))


def environment(config: Config, run: RunDirectory, role: str, threads: int) -> dict[str, str]:
    """The variables that an actor of this job starts with; ``threads`` are OpenMP's, 0: as many as it likes."""
    variables = actors_environment(threads) | environment_of(run.identity)
    return variables | (allocator(config, os.environ) if role == "learner" else {})
