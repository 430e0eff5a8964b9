"""A run's folder, and stages opened in it with settings of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from configs import configured

from pipelines.runs.folder import RunDirectory
from pipelines.stages.stage import Stage, open_stage


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory(tmp_path, "tiny", "tiny") as folder:
        yield folder


class Opener:
    """Opens a stage of the run, by default RL, with these overrides."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def __call__(self, *overrides: str, name: str = "rl", resumable: bool = True) -> AbstractContextManager[Stage]:
        place = {"run": self._run.name, "output_root": str(self._run.path.parent)}
        return open_stage(configured("recipe=tiny", "tracking=off", *overrides, **place), self._run, name, resumable)


@pytest.fixture
def opened(run: RunDirectory) -> Opener:
    return Opener(run)
