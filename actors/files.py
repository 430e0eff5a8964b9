"""Files that are whole or not there: written aside, renamed when complete, removed in one step, checked by hash.

Loads no torch, so that a driver can use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""Marks names of files and folders that are not whole; they may be removed by whoever owns the folder."""


def remove_whole(path: Path) -> None:
    """Remove a file or folder; one that is half removed no longer has its name. Nothing there is no error."""
    if not path.exists():
        return
    aside = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    os.replace(path, aside)
    _remove(aside)


def clean_leftovers(folder: str | Path) -> list[Path]:
    """Remove what interrupted writers left directly in ``folder``; only for the one process that may write there."""
    leftovers = list(Path(folder).glob(f"*{TEMPORARY}*"))
    for entry in leftovers:
        log.info("removing %s, which was never completed", entry)
        _remove(entry)
    return leftovers


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, text: str) -> None:
    """Write a UTF-8 text file in a folder that is itself renamed when whole, and wait until it is on disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make names in a folder durable, a rename for example."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path``; renamed to it, with its bytes on disk, when the block ends without an error.

    ``durable=False`` does not wait for the disk: for what only processes that live now will read.

    Raises:
        OSError: naming ``path``, with ``errno.ENOSPC`` when the disk is full; nothing is left behind then.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to fill; it takes the place of ``path`` when the block ends without an error.

    For one writer at a time: what an interrupted one left of the same folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{path.name}{TEMPORARY}*"):
        _remove(leftover)
    partial = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        yield partial
        remove_whole(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file at once or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")
