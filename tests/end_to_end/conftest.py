"""One folder of runs for each test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from commands import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Runs whose outputs live as long as the test module."""
    started = Runs(tmp_path_factory.mktemp("outputs"))
    yield started
    started.close()
