"""The sending side of a weight update: gather everything and say what it is; write a file, or broadcast meanwhile.

All is gathered to its end whatever becomes of the transfer: the learners' collectives are of all ranks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from actors.errors import MachineFault
from actors.files import atomic_path
from actors.messages import TensorEntry, WeightUpdate
from actors.weights.checksums import combined_checksum, tensor_checksum
from actors.weights.nameless import open_nameless, path_of, write_safetensors

Described = Iterator[tuple[TensorEntry, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Weights that were published: what there is to say about them, and full tensors in Hugging Face naming."""

    update: WeightUpdate
    tensors: Mapping[str, torch.Tensor]
    """On the CPU."""

    def __iter__(self) -> Described:
        return ((entry, self.tensors[entry.name]) for entry in self.update.tensors)


def gathered(
    tensors: Iterable[tuple[str, torch.Tensor]], version: int, send: Callable[[Described], None] | None = None
) -> tuple[Gathered, Exception | None]:
    """Hold full tensors; ``send`` is given each as it comes, where it was gathered.

    An error of the transfer is returned: all are held none the less. One of gathering is raised.
    """
    held: dict[str, torch.Tensor] = {}
    entries: list[TensorEntry] = []
    is_whole = False

    def passing() -> Described:
        nonlocal is_whole
        for name, tensor in tensors:
            # Where it was gathered, before it leaves the device.
            dtype, checksum = str(tensor.dtype).removeprefix("torch."), tensor_checksum(tensor)
            entries.append(TensorEntry(name, dtype, tuple(tensor.shape), checksum))
            held[name] = tensor.detach().cpu().contiguous()
            yield entries[-1], tensor
        is_whole = True

    described, failure = passing(), None
    try:
        if send is not None:
            send(described)
    except Exception as error:
        failure = error
    for _ in described:
        pass
    if failure is not None and not is_whole:
        raise failure
    return Gathered(WeightUpdate(version, None, tuple(entries), combined_checksum(entries)), held), failure


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
    held, _ = gathered(tensors, version)
    # Before the last one's is closed, whose number and path it would otherwise have.
    descriptor = open_nameless(folder)
    try:
        for older in folder.glob("weights-*.safetensors"):
            older.unlink(missing_ok=True)
        _release(folder)
        refuse_if_full(folder, sum(tensor.nbytes for tensor in held.tensors.values()), shutil.disk_usage(folder).free)
        if descriptor is None:
            path = folder / f"weights-{version:08d}.safetensors"
            with atomic_path(path, durable=False) as partial:
                save_file(dict(held.tensors), partial)
        else:
            path = path_of(descriptor)
            write_safetensors(descriptor, held.tensors)
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    if descriptor is not None:
        _WRITTEN[folder] = path, descriptor
        _remove_if_empty(folder)
    return replace(held.update, path=str(path))


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
