"""Whether a model's weight files are whole, asked at once: engines and learners find out when they have started."""

from __future__ import annotations

import json
from pathlib import Path

from actors.learner.settings import ModelError

_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_AGAIN = "copy or download it again"


def check_whole(model: str) -> None:
    """Refuse a folder with a safetensors file that is cut off or damaged, or without one that its index names.

    Reads headers only. Of a hub name nothing is asked: the hub's own client checks what it downloads.

    Raises:
        ModelError: naming the file, what is wrong with it, and the remedy.

    """
    from safetensors import SafetensorError, safe_open

    folder = Path(model)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged ({error}): {_remedy(file)}") from error
    index = folder / _INDEX
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is no index of weights: {_AGAIN}") from error
    if missing := sorted(name for name in named if not (folder / str(name)).is_file()):
        raise ModelError(f"{folder} has no {missing[0]}, of {len(named)} files that {_INDEX} names: {_AGAIN}")


def _remedy(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            return "it is a pointer of Git LFS, `git lfs pull` gets the file"
    return f"it has {size:,} bytes, {_AGAIN}"
