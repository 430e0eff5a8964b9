"""The files of a checkpoint: their names, and the manifest that tells a whole one from a damaged one.

    <root>/step-000120/
      *.distcp  .metadata   PyTorch Distributed Checkpoint: model and optimiser, each rank its own shards
      rng.json              random number generators of every rank
      manifest.json         every file with size and SHA-256, world size, and the trainer's own state

Loads no torch, so that a driver can use it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.errors import UserError
from actors.files import remove_whole, sha256_file

MANIFEST = "manifest.json"
RNG = "rng.json"
FORMAT = 1

_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be written or used; names it, what is wrong and the remedy."""


def checkpoint_path(root: str | Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return Path(root) / f"step-{step:06d}"


def list_checkpoints(root: str | Path) -> list[tuple[int, Path]]:
    """Complete checkpoints under ``root`` as (step, folder), oldest step first."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(entry.name), entry) for entry in folder.iterdir() if entry.is_dir()]
    return sorted((int(match[1]), entry) for match, entry in matches if match)


def latest(root: str | Path) -> Path | None:
    """The checkpoint of the highest step, None where there is none."""
    found = list_checkpoints(root)
    return found[-1][1] if found else None


def prune(root: str | Path, keep_last: int, best_step: int | None = None) -> list[Path]:
    """Remove all checkpoints but the last ``keep_last`` (at least 1) and that of ``best_step``. Returns the removed."""
    if keep_last < 1:
        raise ValueError(f"keep_last={keep_last} would remove the checkpoint to continue from: it must be at least 1")
    removed = [path for step, path in list_checkpoints(root)[:-keep_last] if step != best_step]
    for path in removed:
        remove_whole(path)
    return removed


def describe(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Size and hash of the files that this rank wrote, while they are still in its node's memory."""
    names = sorted(file.name for file in folder.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        names += [".metadata", RNG]
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in names}


def checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise CheckpointError(f"there is no checkpoint at {directory}")
    path = directory / MANIFEST
    if not path.is_file():
        refuse(directory, [f"{MANIFEST} is missing"])
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        whole = body.pop("checksum") == checksum(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        refuse(directory, [f"{MANIFEST} is damaged"])
    if body["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {directory} has format {body['format']}, this version reads {FORMAT}")
    return body


def refuse_incomplete(directory: Path) -> None:
    """Refuse a checkpoint of which a file is missing or has another size: asked before ranks start, which read all.

    Raises:
        CheckpointError: naming the file and what to do.

    """
    manifest = read_manifest(directory)
    refuse(directory, damage(directory, manifest, sorted(manifest["files"]), contents=False))


def damage(directory: Path, manifest: Mapping[str, Any], names: Sequence[str], contents: bool = True) -> list[str]:
    """What is wrong with these files, in words; without ``contents`` by their sizes alone."""
    problems = []
    for name in names:
        path, entry = directory / name, manifest["files"][name]
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif contents and sha256_file(path) != entry["sha256"]:
            problems.append(f"{name} is damaged (its SHA-256 differs from the manifest's)")
    return problems


def refuse(directory: Path, problems: Sequence[str]) -> None:
    if not problems:
        return
    match = _NAME.fullmatch(directory.name)
    earlier = [path for step, path in list_checkpoints(directory.parent) if match and step < int(match[1])]
    remedy = f"continue from {earlier[-1].name}" if earlier else "begin the stage from its start"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise CheckpointError(f"checkpoint {directory}: {problems[0]}{more}. Remove that folder to {remedy}")
