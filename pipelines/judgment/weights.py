"""What tells one model's weights from another's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from actors.learner.settings import ModelError

_MIB = 1 << 20


def weights_id(model: str) -> str:
    """What tells one set of weights from another, without reading all of them.

    For a folder: SHA-256 over names, sizes and the first and last MiB of its weight files. For a hub name: the commit.

    Raises:
        ModelError: there is no model at that path or name.

    """
    folder = Path(model)
    if not folder.is_dir():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load a model from {model!r}: {str(error).splitlines()[0]}") from error
        return str(getattr(config, "_commit_hash", None) or model)
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_MIB))
            stream.seek(max(0, size - _MIB))
            digest.update(stream.read(_MIB))
    return digest.hexdigest()[:16]
