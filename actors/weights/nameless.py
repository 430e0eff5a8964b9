"""Files without a name: they end with the process that holds them open, however that ends; nothing is left to remove.

Other processes of the node open such a file by the path of its holder's descriptor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a safetensors header calls a type."""


SHARED_MEMORY = Path("/dev/shm")


def open_nameless(folder: Path) -> int | None:
    """A descriptor of a new file in shared memory; None elsewhere, as other nodes may read what lies on a disk."""
    if SHARED_MEMORY not in folder.resolve().parents:
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (AttributeError, OSError):  # Not Linux, or a kernel that cannot.
        return None


def path_of(descriptor: int) -> Path:
    """The path by which this user's processes of this node open the file while it is held."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def write_safetensors(descriptor: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write contiguous tensors of the CPU in safetensors' format, whose library writes only files that have a name.

    Eight bytes with the length of the header, the header as JSON padded to eight bytes, the tensors' bytes; those of
    wide types come first, so that each is aligned.

    Raises:
        OSError: with ``errno.ENOSPC`` when the file system is full.

    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header, offset = {}, 0
    for name, tensor in ordered:
        end = offset + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _write(descriptor, memoryview(len(text).to_bytes(8, "little") + text))
    for _, tensor in ordered:
        if tensor.nbytes:
            _write(descriptor, tensor.reshape(-1).view(torch.uint8).numpy().data)


def _write(descriptor: int, data: memoryview) -> None:
    # Linux writes at most 2 GiB at a time.
    while data:
        data = data[os.write(descriptor, data) :]
