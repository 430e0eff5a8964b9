"""What one learner rank of four reads of a checkpoint, and holds while it loads it: its own rows, or whole layers.

The alternative shards what was loaded whole, layer by layer, as FSDP2 is mostly used. A model of the shape of
Qwen2.5-0.5B in bfloat16, trained in float32; each side in a process of its own, with a process group that only counts
its ranks, and with nothing of the file in the machine's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

RANKS, RANK = 4, 1
SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def loading() -> dict[str, Any]:
    """Share of the checkpoint that is read, and memory at the peak over what is held in the end."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), SHAPE)
        for side in ("rows", "layers"):
            seen = in_own_process(Path(folder), side)
            found[f"loading_read_share_{side}"] = seen["read"] / seen["file"]
            found[f"loading_peak_over_shards_{side}"] = seen["peak"] / seen["shards"]
    return found


def write_model(folder: Path, shape: dict[str, Any]) -> None:
    """A checkpoint of a Qwen2 of this shape in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    with torch.device("meta"):
        blank = AutoModelForCausalLM.from_config(Qwen2Config(**shape), dtype=torch.bfloat16)
    values = {
        name: torch.full(parameter.shape, index / 1000, dtype=torch.bfloat16)
        for index, (name, parameter) in enumerate(blank.named_parameters())
    }
    blank.save_pretrained(folder, state_dict=values)


def in_own_process(folder: Path, side: str) -> dict[str, int]:
    """Bytes: ``read`` of the ``file``, ``shards`` that are held in the end, and the ``peak`` on the way."""
    command = [sys.executable, "-m", "pipelines.speed.loading", str(folder), side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def load(folder: Path, side: str) -> dict[str, int]:
    """Load in this process."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from actors.learner import model
    from actors.learner.sharding import local

    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=RANK, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    file, held = folder / "model.safetensors", []

    def read(path: str, before: Any = model._read) -> Any:
        lm = before(path)
        held.append(lm.get_input_embeddings().weight.detach())  # Keeps the file mapped, so that it can be looked at.
        return lm

    model._read = read
    _forget(file)
    start, most, done = _own(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], _own() - start)

    watching = threading.Thread(target=watch)
    watching.start()
    if side == "rows":
        judge = model.load_judge(str(folder), mesh, dtype="bfloat16")
    else:
        settings: dict[str, Any] = {"activation_checkpointing": False, "reshard_after_forward": True}
        settings |= {"trainable": True, "offload": False, "lora": None, "seed": 0}
        judge = model.shard_judge(read(str(folder)), mesh, dtype="bfloat16", **settings)
    done.set()
    watching.join()
    shards = sum(local(parameter).nbytes for parameter in judge.parameters())
    dist.destroy_process_group()
    return {"read": _mapped(file), "file": file.stat().st_size, "shards": shards, "peak": most[0]}


def _forget(file: Path) -> None:
    """Take a file out of the machine's cache: of what is there, neighbours are mapped as well."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _own() -> int:
    """Bytes of this process that are of no file."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def _mapped(file: Path) -> int:
    """Bytes of a file that this process has looked at."""
    maps = re.findall(rf"{re.escape(str(file))}\n.*?\nRss:\s+(\d+)", Path("/proc/self/smaps").read_text(), re.DOTALL)
    return 1024 * sum(map(int, maps))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("side")
    arguments = parser.parse_args()
    print(json.dumps(load(arguments.folder, arguments.side)))
