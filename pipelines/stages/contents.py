"""The content of what a stage reads: a stage that is continued must read what it read when it began.

Data, templates and reward functions are hashed whole. A model is too large for that at every start: of a large file,
its size and blocks spread over it, the first with the header of a safetensors file, stand for the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from actors.files import sha256_file
from pipelines.config import Config
from pipelines.data.hub import check_reached
from pipelines.data.modes import trained_modes
from pipelines.data.prompts import template_file
from pipelines.data.published import hub_version, is_hub_name
from pipelines.data.rows import files_of
from pipelines.runs.folder import RunDirectory, StageMissing

Content = dict[str, str]
"""File as a message names it -> what stands for its content; empty where there is nothing yet."""

_MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja", ".tiktoken")
_WHOLE = 32 << 20
"""Bytes up to which a file of a model is hashed whole."""
_BLOCK, _BLOCKS = 1 << 16, 64


def contents(config: Config, run: RunDirectory, reads: Iterable[str]) -> dict[str, Content]:
    """The content behind each of these settings; of one that is null, what stages before left in its place."""
    return {name: READERS[name](config, run) for name in reads}


def changes(before: Mapping[str, Content], now: Mapping[str, Content]) -> Iterator[str]:
    """What has other content than before, in words. Settings without any file now are left to whoever reads them."""
    for name in sorted(before.keys() & now.keys()):
        if not (before[name] and now[name]):
            continue
        for file in sorted(before[name].keys() | now[name].keys()):
            was, is_now = before[name].get(file), now[name].get(file)
            if was != is_now:
                yield f"{name}: {file} was {was or 'not there'}, is {is_now or 'not there'}"


def _data(path: str | Path) -> Content:
    if is_hub_name(str(path)) and not Path(path).exists():
        version = hub_version(str(path))
        return {str(path): version} if version else {}
    return _hashed(files_of(path)) if Path(path).exists() else {}


def _hashed(files: Iterable[Path]) -> Content:
    return {file.name: _stated(file.stat().st_size, sha256_file(file)) for file in files if file.is_file()}


def _stated(size: int, digest: str) -> str:
    return f"{size:,} bytes with SHA-256 {digest[:16]}"


def _train(config: Config, run: RunDirectory) -> Content:
    return _data(config.data.train or run.data / "rl.parquet")


def _heldout(config: Config, run: RunDirectory) -> Content:
    if config.data.heldout is None and config.data.train is not None:
        return {}  # A part of the training pairs.
    return _data(config.data.heldout or run.data / "heldout.parquet")


def _chains(config: Config, run: RunDirectory) -> Content:
    return _data(config.data.chains or run.data / "chains.parquet")


def _prompt(config: Config, run: RunDirectory) -> Content:
    return _hashed(template_file(config.model.prompt, mode) for mode in ("pairwise", *trained_modes(config.data.modes)))


def _functions(config: Config, run: RunDirectory) -> Content:
    found: Content = {}
    for name, function in config.verifier.functions.items():
        files = _sources(function.path.rpartition(".")[0])
        found |= {f"{name} in {file}": content for file, content in _hashed(files).items()}
    return found


def _sources(module: str) -> list[Path]:
    """A module's file, and those beside it in its package, whose functions it may call. Imports nothing of them."""
    folders: list[str] | None = None
    spec = None
    for part in filter(None, module.split(".")):
        spec = find_spec(part) if folders is None else PathFinder.find_spec(part, folders)
        if spec is None:
            return []
        within, folders = folders, [*(spec.submodule_search_locations or ())]
    folder = folders or within
    files = sorted(file for path in folder or () for file in Path(path).glob("*.py"))
    return files or [Path(spec.origin or "" if spec else "")]


def _base_model(config: Config, run: RunDirectory) -> Content:
    return _model(config.model.path or str(run.model))


def _policy(config: Config, run: RunDirectory) -> Content:
    try:
        return _model(run.starting_policy(config))
    except StageMissing:
        return {}


def _model(path: str) -> Content:
    """A model's files and its tokenizer's; of a hub name, the commit that the cache holds for it."""
    folder = Path(path)
    if folder.is_dir():
        return {file.name: _sampled(file) for file in folder.iterdir() if file.suffix in _MODEL_FILES}
    from transformers.utils import cached_file

    check_reached(path)
    try:
        config = cached_file(path, "config.json")
    except (OSError, ValueError):
        return {}
    # .../snapshots/<commit>/config.json
    return {path: f"commit {Path(config).parent.name}"} if config else {}


def _sampled(file: Path) -> str:
    size = file.stat().st_size
    if size <= _WHOLE:
        return _stated(size, sha256_file(file))
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for index in range(_BLOCKS):
            stream.seek(index * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(stream.read(_BLOCK))
    return _stated(size, digest.hexdigest())


READERS: Mapping[str, Callable[[Config, RunDirectory], Content]] = MappingProxyType(
    {
        "data.train": _train,
        "data.heldout": _heldout,
        "data.chains": _chains,
        "model.path": _base_model,
        "model.prompt": _prompt,
        "rl.policy": _policy,
        "verifier.functions": _functions,
    }
)
"""By the names that a stage's record may have in ``reads``."""
