"""Checkpoints of a training stage: written aside, renamed when whole, checked before use.

A folder named ``step-...`` is complete by construction (:mod:`actors.learner.manifest`). Every step that can fail ends
on all ranks alike, so that none waits for one that has given up.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from actors.files import TEMPORARY, remove_whole, sync_folder, write_synced
from actors.learner import random_state
from actors.learner.manifest import (
    FORMAT,
    MANIFEST,
    RNG,
    CheckpointError,
    checksum,
    damage,
    describe,
    read_manifest,
    refuse,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    Optimizers = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]

log = logging.getLogger(__name__)

T = TypeVar("T")


def save_checkpoint(
    directory: str | Path, model: nn.Module, optimizer: Optimizers, extra_state: Mapping[str, Any]
) -> None:
    """Write a checkpoint of what is trained; all ranks of the default process group call this, or one process alone.

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
        model_state, optimizer_state = get_state_dict(model, optimizers if stepped else [], options=_trained_only())
        state = {"model": model_state} | ({"optimizer": optimizer_state} if stepped else {})
        _on_every_rank(lambda: dcp.save(state, checkpoint_id=str(partial)), target)
        generators = json.dumps(_gather(random_state.capture()))
        _on_rank_0(lambda: write_synced(partial / RNG, generators), target)
        shares = _on_every_rank(lambda: describe(partial, rank), target)
        files = {name: entry for share in shares for name, entry in share.items()}

        def finish() -> None:
            for file in files:
                if not (partial / file).is_file():
                    raise CheckpointError(f"{target}: checkpoints need a folder that every rank's node shares")
            body = {
                "format": FORMAT,
                "torch": torch.__version__,
                "world_size": _world_size(),
                "optimizer": stepped,
                "files": files,
                "extra_state": extra,
            }
            write_synced(partial / MANIFEST, json.dumps(body | {"checksum": checksum(body)}, indent=1))
            sync_folder(partial)
            remove_whole(target)
            os.replace(partial, target)
            sync_folder(target.parent)

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
    manifest = _on_rank_0(lambda: read_manifest(source), source)
    # Each rank reads its part, so that checking takes no longer than loading.
    problems = _gather(damage(source, manifest, sorted(manifest["files"])[rank::world]))
    refuse(source, [problem for part in problems for problem in part])

    def load() -> None:
        optimizers = _as_list(optimizer) if manifest["optimizer"] else []
        options = _trained_only()
        model_state, optimizer_state = get_state_dict(model, optimizers, options=options)
        state = {"model": model_state} | ({"optimizer": optimizer_state} if optimizers else {})
        dcp.load(state, checkpoint_id=str(source))
        set_state_dict(
            model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state, options=options
        )

    _on_every_rank(load, source, _explain_load)
    generators = json.loads((source / RNG).read_text(encoding="utf-8"))
    if len(generators) == world:
        random_state.restore(generators[rank])
    else:
        digest = manifest["files"][RNG]["sha256"]
        random_state.seed_all(int.from_bytes(hashlib.sha256(f"{digest}/{rank}/{world}".encode()).digest()[:4], "big"))
        log.warning(
            "%s was written by %d ranks and is loaded by %d: random numbers of rank %d start from a new seed",
            source, len(generators), world, rank,
        )  # fmt: skip
    return dict(manifest["extra_state"])


def _trained_only() -> Any:
    """Frozen parameters, under adapters, are those of the model that training began from: they are not stored."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)


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
