"""Checkpoints without a model: what a driver looks at, for tests whose learners train nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from actors.files import sha256_file
from actors.learner.manifest import FORMAT, MANIFEST, checksum

STATE = "state.json"


def write_checkpoint(directory: str | Path, state: dict[str, Any]) -> Path:
    """A whole checkpoint that holds ``state`` alone; returns its folder."""
    folder = Path(directory)
    folder.mkdir(parents=True)
    file = folder / STATE
    file.write_text(json.dumps(state))
    body = {"format": FORMAT, "files": {STATE: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}}}
    (folder / MANIFEST).write_text(json.dumps(body | {"checksum": checksum(body)}))
    return folder


def read_checkpoint(directory: str | Path) -> dict[str, Any]:
    """The state that a checkpoint holds."""
    return cast(dict[str, Any], json.loads((Path(directory) / STATE).read_text()))
