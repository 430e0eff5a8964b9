"""Checkpoints of a training stage: copied at once, written aside, renamed when whole, checked before use.

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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from actors.files import TEMPORARY, remove_whole, sync_folder, write_synced
from actors.learner import random_state
from actors.learner.agreement import Outcome, Ranks
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
    import torch.distributed.checkpoint as dcp

    saving = _Saving.prepared(Path(directory), model, optimizer, extra_state)
    alone = not Ranks().distributed
    saving.finish(lambda: dcp.save(saving.state, checkpoint_id=str(saving.partial), no_dist=alone), Ranks())


def begin_checkpoint(
    directory: str | Path, model: nn.Module, optimizer: Optimizers, extra_state: Mapping[str, Any], group: Any
) -> Future[None]:
    """:func:`save_checkpoint` of a copy in the machine's memory, made at once; it is written while training goes on.

    ``group`` is a gloo group of all ranks, for nothing else while a checkpoint is written. One is written at a time.

    Returns:
        Done when the checkpoint is whole, or with a :class:`CheckpointError`, on every rank alike.

    Raises:
        CheckpointError: on every rank alike: it could not begin.

    """
    import torch.distributed.checkpoint as dcp

    saving, ranks = _Saving.prepared(Path(directory), model, optimizer, extra_state), Ranks()
    writing: list[Any] = []

    def begin() -> None:
        where: dict[str, Any] = {"checkpoint_id": str(saving.partial), "process_group": group}
        writing.append(dcp.async_save(saving.state, **where, no_dist=not ranks.distributed))

    with saving.removed_on_error():
        # Over the default group: the writers use the other one already.
        saving.on_every(begin, ranks)
    # What was copied is not to be held twice.
    saving.state.clear()
    whole: Future[None] = Future()

    def finish() -> None:
        try:
            saving.finish(writing[0].result, Ranks(group))
        except BaseException as error:
            whole.set_exception(error)
        else:
            whole.set_result(None)

    threading.Thread(target=finish, name="checkpoint", daemon=True).start()
    return whole


@dataclass
class _Saving:
    """A checkpoint that is being written, on one rank."""

    target: Path
    partial: Path
    """Where it is until it is whole."""
    extra: dict[str, Any]
    state: dict[str, Any] = field(default_factory=dict)
    """What is trained, as it is now."""
    stepped: bool = False
    generators: str = ""

    @classmethod
    def prepared(cls, target: Path, model: nn.Module, optimizer: Optimizers, extra_state: Mapping[str, Any]) -> _Saving:
        """With its folder, and all that is stored."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        ranks = Ranks()

        def prepare() -> tuple[str, dict[str, Any]]:
            try:
                state = json.loads(json.dumps(dict(extra_state)))
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{target}: the trainer's state is not plain JSON data: {error}") from error
            partial = target.with_name(f"{target.name}{TEMPORARY}{secrets.token_hex(4)}")
            partial.mkdir(parents=True)
            return str(partial), state

        name, extra = ranks.on_first(lambda: _attempt(prepare, target, _explain_save), CheckpointError)
        saving = cls(target, Path(name), extra)
        with saving.removed_on_error():
            optimizers = _as_list(optimizer)
            # An optimiser that has not stepped has no state; asking for it would make some up, with a step in it.
            saving.stepped = any(one.state for one in optimizers)
            stored = optimizers if saving.stepped else []
            model_state, optimizer_state = get_state_dict(model, stored, options=trained_only())
            saving.state = {"model": model_state} | ({"optimizer": optimizer_state} if saving.stepped else {})
            saving.generators = json.dumps(ranks.gather(random_state.capture()))
        return saving

    def on_every(self, action: Callable[[], T], ranks: Ranks) -> list[T]:
        return ranks.on_every(lambda: _attempt(action, self.target, _explain_save), CheckpointError)

    def on_first(self, action: Callable[[], T], ranks: Ranks) -> T:
        return ranks.on_first(lambda: _attempt(action, self.target, _explain_save), CheckpointError)

    @contextmanager
    def removed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if Ranks().rank == 0:
                shutil.rmtree(self.partial, ignore_errors=True)
            raise

    def finish(self, write: Callable[[], object], ranks: Ranks) -> None:
        """Write this rank's part, or wait until it is written; then describe all parts and give the folder its name."""
        with self.removed_on_error():
            self.on_every(write, ranks)
            self.on_first(lambda: write_synced(self.partial / RNG, self.generators), ranks)
            shares = self.on_every(lambda: describe(self.partial, ranks.rank), ranks)
            files = {name: entry for share in shares for name, entry in share.items()}
            self.on_first(lambda: self._name(files, ranks.count), ranks)

    def _name(self, files: Mapping[str, Any], ranks: int) -> None:
        import torch

        partial, target = self.partial, self.target
        for file in files:
            if not (partial / file).is_file():
                raise CheckpointError(f"{target}: checkpoints need a folder that every rank's node shares")
        body = {
            "format": FORMAT,
            "torch": torch.__version__,
            "world_size": ranks,
            "optimizer": self.stepped,
            "files": files,
            "extra_state": self.extra,
        }
        write_synced(partial / MANIFEST, json.dumps(body | {"checksum": checksum(body)}, indent=1))
        sync_folder(partial)
        remove_whole(target)
        os.replace(partial, target)
        sync_folder(target.parent)


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

    source, ranks = Path(directory), Ranks()
    rank, world = ranks.rank, ranks.count
    manifest = ranks.on_first(lambda: _attempt(lambda: read_manifest(source), source, _explain_save), CheckpointError)
    # Each rank reads its part, so that checking takes no longer than loading.
    problems = ranks.gather(damage(source, manifest, sorted(manifest["files"])[rank::world]))
    refuse(source, [problem for part in problems for problem in part])

    def load() -> None:
        optimizers = _as_list(optimizer) if manifest["optimizer"] else []
        options = trained_only()
        model_state, optimizer_state = get_state_dict(model, optimizers, options=options)
        state = {"model": model_state} | ({"optimizer": optimizer_state} if optimizers else {})
        dcp.load(state, checkpoint_id=str(source))
        set_state_dict(
            model, optimizers, model_state_dict=model_state, optim_state_dict=optimizer_state, options=options
        )

    ranks.on_every(lambda: _attempt(load, source, _explain_load), CheckpointError)
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


def trained_only() -> Any:
    """Frozen parameters, under adapters, are those of the model that training began from: they are not stored."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _attempt(action: Callable[[], T], target: Path, explain: Callable[[BaseException, Path], str]) -> Outcome[T]:
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
