"""Checkpoints of a training stage: written aside, renamed when whole, checked before use.

    <root>/step-000120/
      *.distcp  .metadata   PyTorch Distributed Checkpoint: model and optimiser, each rank its own shards
      rng.json              random number generators of every rank
      manifest.json         every file with size and SHA-256, world size, and the trainer's own state

A folder named ``step-...`` is complete by construction; temporary ones carry ``.tmp-`` in their name. The file-level
functions load no torch, so that a driver can use them.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import logging
import os
import random
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

    Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""Marks names of files and folders that are not whole; they may be removed by whoever owns the folder."""

_NAME = re.compile(r"step-(\d{6,})")
_MANIFEST = "manifest.json"
_RNG = "rng.json"
_FORMAT = 1

T = TypeVar("T")


class CheckpointError(RuntimeError):
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


def remove_whole(path: Path) -> None:
    """Remove a file or folder; one that is half removed no longer has its name. Nothing there is no error."""
    if not path.exists():
        return
    aside = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    os.replace(path, aside)
    _remove(aside)


def clean_leftovers(folder: str | Path) -> list[Path]:
    """Remove what interrupted writers left directly in ``folder``; only for the one process that may write there."""
    leftovers = list(Path(folder).glob(f"*{TEMPORARY}*"))
    for entry in leftovers:
        log.info("removing %s, which was never completed", entry)
        _remove(entry)
    return leftovers


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: str | Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, and return the manifest.

    Raises:
        CheckpointError: naming the first file that is missing or damaged, and what to do.

    """
    manifest = _read_manifest(Path(directory))
    _refuse(Path(directory), _damage(Path(directory), manifest, list(manifest["files"])))
    return manifest


def save_checkpoint(
    directory: str | Path, model: nn.Module, optimizer: Optimizers, extra_state: Mapping[str, Any]
) -> None:
    """Write a checkpoint; every rank of the default process group calls this, or one process without a group.

    ``directory`` is the final folder (see :func:`checkpoint_path`), on a file system all ranks see. ``extra_state`` is
    plain JSON data; rank 0's is stored. The random number generators of every rank (torch, its current CUDA device,
    NumPy, Python) are stored besides. A checkpoint of the same name is replaced.

    Raises:
        CheckpointError: on every rank alike; nothing is left at ``directory`` then.

    """
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    target, rank = Path(directory), _rank()

    def prepare() -> tuple[str, dict[str, Any]]:
        try:
            state = json.loads(json.dumps(dict(extra_state)))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{target}: the trainer's state is not plain JSON data: {error}") from error
        partial = target.with_name(f"{target.name}{TEMPORARY}{secrets.token_hex(4)}")
        partial.mkdir(parents=True)
        return str(partial), state

    name, extra = _on_rank_0(prepare, target)
    partial = Path(name)
    try:
        optimizers = _as_list(optimizer)
        # An optimiser that has not stepped has no state; asking for it would make some up, with a step counted in it.
        stepped = any(one.state for one in optimizers)
        model_state, optimizer_state = get_state_dict(model, optimizers if stepped else [])
        state = {"model": model_state} | ({"optimizer": optimizer_state} if stepped else {})
        _on_every_rank(lambda: dcp.save(state, checkpoint_id=str(partial)), target)
        generators = json.dumps(_gather(_capture_rng()))
        _on_rank_0(lambda: _write_synced(partial / _RNG, generators), target)
        shares = _on_every_rank(lambda: _describe(partial, rank), target)
        files = {name: entry for share in shares for name, entry in share.items()}

        def finish() -> None:
            for file in files:
                if not (partial / file).is_file():
                    raise CheckpointError(f"{target}: checkpoints need a folder that every rank's node shares")
            body = {
                "format": _FORMAT,
                "torch": torch.__version__,
                "world_size": _world_size(),
                "optimizer": stepped,
                "files": files,
                "extra_state": extra,
            }
            _write_synced(partial / _MANIFEST, json.dumps(body | {"checksum": _checksum(body)}, indent=1))
            _sync_folder(partial)
            remove_whole(target)
            os.replace(partial, target)
            _sync_folder(target.parent)

        _on_rank_0(finish, target)
    except BaseException:
        if rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def load_checkpoint(directory: str | Path, model: nn.Module, optimizer: Optimizers) -> dict[str, Any]:
    """Check a checkpoint, load it into ``model`` and ``optimizer`` in place, and return its ``extra_state``.

    Collective like :func:`save_checkpoint`, also onto another number of ranks: model and optimiser are resharded. The
    random number generators continue where they were if the number of ranks is the same; otherwise each rank's are
    seeded anew, from the stored ones and its rank, and the log says so.

    Raises:
        CheckpointError: on every rank alike: a file is missing or damaged, or the model or optimiser is another one.

    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    source, rank, world = Path(directory), _rank(), _world_size()
    manifest = _on_rank_0(lambda: _read_manifest(source), source)
    # Each rank reads its part, so that checking takes no longer than loading.
    problems = _gather(_damage(source, manifest, sorted(manifest["files"])[rank::world]))
    _refuse(source, [problem for part in problems for problem in part])

    def load() -> None:
        optimizers = _as_list(optimizer) if manifest["optimizer"] else []
        model_state, optimizer_state = get_state_dict(model, optimizers)
        state = {"model": model_state} | ({"optimizer": optimizer_state} if optimizers else {})
        dcp.load(state, checkpoint_id=str(source))
        set_state_dict(model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state)

    _on_every_rank(load, source, _explain_load)
    generators = json.loads((source / _RNG).read_text(encoding="utf-8"))
    if len(generators) == world:
        _restore_rng(generators[rank])
    else:
        digest = manifest["files"][_RNG]["sha256"]
        _seed(int.from_bytes(hashlib.sha256(f"{digest}/{rank}/{world}".encode()).digest()[:4], "big"))
        log.warning(
            "%s was written by %d ranks and is loaded by %d: random numbers of rank %d start from a new seed",
            source, len(generators), world, rank,
        )  # fmt: skip
    return dict(manifest["extra_state"])


# Files and their manifest


def _describe(folder: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Size and hash of the files that this rank wrote, while they are still in its node's memory."""
    names = sorted(file.name for file in folder.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        names += [".metadata", _RNG]
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in names}


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise CheckpointError(f"there is no checkpoint at {directory}")
    path = directory / _MANIFEST
    if not path.is_file():
        _refuse(directory, [f"{_MANIFEST} is missing"])
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        whole = body.pop("checksum") == _checksum(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        _refuse(directory, [f"{_MANIFEST} is damaged"])
    if body["format"] != _FORMAT:
        raise CheckpointError(f"checkpoint {directory} has format {body['format']}, this version reads {_FORMAT}")
    return body


def _damage(directory: Path, manifest: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    problems = []
    for name in names:
        path, entry = directory / name, manifest["files"][name]
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif sha256_file(path) != entry["sha256"]:
            problems.append(f"{name} is damaged (its SHA-256 differs from the manifest's)")
    return problems


def _refuse(directory: Path, problems: Sequence[str]) -> None:
    if not problems:
        return
    match = _NAME.fullmatch(directory.name)
    earlier = [path for step, path in list_checkpoints(directory.parent) if match and step < int(match[1])]
    remedy = f"continue from {earlier[-1].name}" if earlier else "begin the stage from its start"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise CheckpointError(f"checkpoint {directory}: {problems[0]}{more}. Remove that folder to {remedy}")


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make names in a folder durable, a rename for example."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Ranks: every step that can fail ends on all of them alike, so that none waits for one that has given up


def _distributed() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank() if _distributed() else 0


def _world_size() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if _distributed() else 1


def _gather(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    import torch.distributed as dist

    if not _distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _on_rank_0(action: Callable[[], T], target: Path) -> T:
    """Run ``action`` on rank 0 alone; every rank gets its result, or its error."""
    import torch.distributed as dist

    outcome: list[Any] = [None]
    if _rank() == 0:
        outcome = [_attempt(action, target, _explain_save)]
    if _distributed():
        dist.broadcast_object_list(outcome, src=0)
    result, problem = outcome[0]
    if problem is not None:
        raise CheckpointError(problem)
    return result


def _on_every_rank(
    action: Callable[[], T], target: Path, explain: Callable[[BaseException, Path], str] | None = None
) -> list[T]:
    """Run ``action`` on every rank; every rank gets all results, or the error of the first that failed."""
    outcomes = _gather(_attempt(action, target, explain or _explain_save))
    for _, problem in outcomes:
        if problem is not None:
            raise CheckpointError(problem)
    return [result for result, _ in outcomes]  # type: ignore[misc]


def _attempt(
    action: Callable[[], T], target: Path, explain: Callable[[BaseException, Path], str]
) -> tuple[T | None, str | None]:
    """The result and None, or None and what to tell the user."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        return action(), None
    except CheckpointError as error:
        return None, str(error)
    except (Exception, CheckpointException) as error:
        log.info("checkpoint %s failed", target, exc_info=True)
        # Distributed Checkpoint wraps the ranks' own errors.
        failures = getattr(error, "failures", None)
        return None, explain(next(iter(failures.values()))[0] if failures else error, target)


def _explain_save(error: BaseException, target: Path) -> str:
    chain: BaseException | None = error
    # A full disk can surface as a plain RuntimeError of the stream writer.
    full = target.parent.is_dir() and shutil.disk_usage(target.parent).free < 65536
    while chain is not None and not full:
        full = isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT)
        chain = chain.__cause__ or chain.__context__
    if full:
        return (
            f"the disk is full, so checkpoint {target} was not written: free some space and run the same command again"
        )
    return f"checkpoint {target} could not be written ({_reason(error)})"


def _explain_load(error: BaseException, target: Path) -> str:
    return (
        f"checkpoint {target} does not fit this model and optimiser ({_reason(error)}): continue with the settings it "
        "was made with, or start over with overwrite=true"
    )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _as_list(optimizer: Optimizers) -> list[torch.optim.Optimizer]:
    import torch

    return [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)


# Random number generators of this process, as JSON data


def _capture_rng() -> dict[str, Any]:
    import numpy as np
    import torch

    name, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "torch": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
        "cuda": base64.b64encode(torch.cuda.get_rng_state().numpy().tobytes()).decode() if cuda else None,
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "python": random.getstate(),
    }


def _restore_rng(state: Mapping[str, Any]) -> None:
    import numpy as np
    import torch

    def tensor(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

    torch.set_rng_state(tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensor(state["cuda"]))
    np.random.set_state(tuple(state["numpy"]))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
