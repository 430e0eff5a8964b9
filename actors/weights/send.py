"""The sending side of a weight update: gather everything, say what is sent, then write a file or broadcast.

Gathering ends before the transfer begins, so no collective of the learners ever waits for an engine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from actors.errors import MachineFault
from actors.files import atomic_path
from actors.messages import TensorEntry, WeightUpdate
from actors.weights.checksums import combined_checksum, tensor_checksum
from actors.weights.nameless import open_nameless, path_of, write_safetensors


def gathered(tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> tuple[WeightUpdate, dict[str, torch.Tensor]]:
    """Full tensors in Hugging Face naming, held on the CPU, and what there is to say about them."""
    held: dict[str, torch.Tensor] = {}
    entries = []
    for name, tensor in tensors:
        # Where it was gathered, before it leaves the device.
        dtype, checksum = str(tensor.dtype).removeprefix("torch."), tensor_checksum(tensor)
        entries.append(TensorEntry(name, dtype, tuple(tensor.shape), checksum))
        held[name] = tensor.detach().cpu().contiguous()
    return WeightUpdate(version, None, tuple(entries), combined_checksum(entries)), held


def refuse_if_full(folder: Path, needed: int, free: int) -> None:
    """Refuse to begin a file of ``needed`` bytes where only ``free`` are free.

    Raises:
        MachineFault: naming both, the folder and the remedy.

    """
    if needed > free:
        raise MachineFault(
            f"{folder} has {free / 2**30:.2f} GiB free, published weights take {needed / 2**30:.2f} GiB: free or "
            "enlarge it (a container's /dev/shm with --shm-size), or set cluster.weights_directory to another folder, "
            "or cluster.weight_transfer=network"
        )


_WRITTEN: dict[Path, tuple[Path, int]] = {}
"""By folder, the file without a name that this process holds open: its path and its descriptor."""


def write_update(tensors: Iterable[tuple[str, torch.Tensor]], version: int, directory: str) -> WeightUpdate:
    """Write full tensors in Hugging Face naming as a safetensors file, for the engines of this node.

    In shared memory, the default, it has no name and this process holds it open: so it ends with its writer, also where
    that is killed. Elsewhere it is ``<directory>/weights-<version>.safetensors``, renamed into place, so that an engine
    never opens half of it. It stays for engines that come later, until the next takes its place. Earlier versions end
    when all is gathered, so that there is never room for two needed: an engine that still reads one has it open, and a
    file that is open stays.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    update, held = gathered(tensors, version)
    # Before the last one's is closed, whose number and path it would otherwise have.
    descriptor = open_nameless(folder)
    try:
        for older in folder.glob("weights-*.safetensors"):
            older.unlink(missing_ok=True)
        _release(folder)
        refuse_if_full(folder, sum(tensor.nbytes for tensor in held.values()), shutil.disk_usage(folder).free)
        if descriptor is None:
            path = folder / f"weights-{version:08d}.safetensors"
            with atomic_path(path, durable=False) as partial:
                save_file(held, partial)
        else:
            path = path_of(descriptor)
            write_safetensors(descriptor, held)
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    if descriptor is not None:
        _WRITTEN[folder] = path, descriptor
        _remove_if_empty(folder)
    return replace(update, path=str(path))


def remove_written(path: str) -> None:
    """End what :func:`write_update` wrote, and the folder with the last of it; nothing is wrong if it is gone."""
    for folder, (held, _) in list(_WRITTEN.items()):
        if str(held) == path:
            _release(folder)
            return
    if not path.startswith("/proc/"):
        Path(path).unlink(missing_ok=True)
        _remove_if_empty(Path(path).parent)


def _release(folder: Path) -> None:
    if folder in _WRITTEN:
        os.close(_WRITTEN.pop(folder)[1])


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # Something else lies there, or it is gone as well.
        folder.rmdir()
