"""The sending side of a weight update: gather everything, say what is sent, then write a file or broadcast.

Gathering ends before the transfer begins, so no collective of the learners ever waits for an engine.
"""

from __future__ import annotations

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


def gathered(tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> tuple[WeightUpdate, dict[str, torch.Tensor]]:
    """Full tensors in Hugging Face naming, held on the CPU, and what there is to say about them."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors}
    entries = tuple(
        TensorEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor_checksum(tensor))
        for name, tensor in held.items()
    )
    return WeightUpdate(version, None, entries, combined_checksum(entries)), held


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


def write_update(tensors: Iterable[tuple[str, torch.Tensor]], version: int, directory: str) -> WeightUpdate:
    """Write full tensors in Hugging Face naming as ``<directory>/weights-<version>.safetensors``.

    The file lies in shared memory by default and is renamed into place, so an engine never opens half of it. Earlier
    versions in the directory are removed once the new file is whole: engines that still read one keep it open, and a
    file that is open outlives its name.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    update, held = gathered(tensors, version)
    refuse_if_full(folder, sum(tensor.nbytes for tensor in held.values()), shutil.disk_usage(folder).free)
    path = folder / f"weights-{version:08d}.safetensors"
    with atomic_path(path, durable=False) as partial:
        save_file(held, partial)
    for older in folder.glob("weights-*.safetensors"):
        if older != path:
            older.unlink(missing_ok=True)
    return replace(update, path=str(path))


def remove_written(path: str) -> None:
    """Remove what :func:`write_update` wrote, and the folder with the last of it; nothing is wrong if it is gone."""
    Path(path).unlink(missing_ok=True)
    with suppress(OSError):  # Something else lies there, or it is gone as well.
        Path(path).parent.rmdir()
