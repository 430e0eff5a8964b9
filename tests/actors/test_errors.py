"""Errors a user can mend: the faults of a machine, and the base every expected error has."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from actors.deadlines import DeadlineExceeded
from actors.errors import MachineFault, UserError, machine_fault
from pipelines.config import ConfigError


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (errno.ENOSPC, ["the disk is full (/scratch/x)", "free some space"]),
        (errno.EDQUOT, ["the disk quota is used up (/scratch/x)", "quota raised"]),
        (errno.EROFS, ["read-only (/scratch/x)", "another output_root"]),
        (errno.EFBIG, ["larger than is allowed here (/scratch/x)", "ulimit -f"]),
        (errno.EIO, ["cannot read or write what is there (/scratch/x)", "choose another one"]),
        (errno.ESTALE, ["has lost the file (/scratch/x)", "mount it anew"]),
        (errno.ENOMEM, ["no memory left for this process (/scratch/x)", "ulimit -v"]),
        (errno.ENAMETOOLONG, ["the name is too long (/scratch/x)", "choose a shorter one"]),
        (errno.ENOLCK, ["no file locks", "(/scratch/x)", "local disk"]),
        (errno.EOPNOTSUPP, ["no file locks", "(/scratch/x)", "local disk"]),
        (errno.ENOSYS, ["no file locks", "(/scratch/x)", "local disk"]),
        (errno.EACCES, ["permission denied (/scratch/x)", "another output_root"]),
        (errno.EPERM, ["permission denied (/scratch/x)", "another output_root"]),
        (errno.EMFILE, ["too many files are open (/scratch/x)", "ulimit -n"]),
    ],
)
def test_a_fault_of_the_machine_names_the_path_and_the_remedy(number: int, parts: list[str]) -> None:
    for fault in (
        machine_fault(OSError(number, os.strerror(number), "/scratch/x")),
        machine_fault(OSError(number, os.strerror(number)), Path("/scratch/x")),
    ):
        assert isinstance(fault, MachineFault)
        assert all(part in str(fault) for part in parts)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/scratch/x"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of a signal, for example: no file is at fault
        OSError(errno.EIO, "Input/output error"),  # of a terminal that was closed
        OSError("without a number"),
        ValueError("no error of the system"),
    ],
)
def test_other_errors_of_the_system_are_defects(error: Exception) -> None:
    assert machine_fault(error) is None


def test_no_memory_left_is_told_whoever_asked_for_it() -> None:
    for error in (MemoryError(), MemoryError("Unable to allocate 5.00 GiB for an array"), OSError(errno.ENOMEM, "")):
        assert "no memory left for this process" in str(machine_fault(error))
    assert "5.00 GiB" in str(machine_fault(MemoryError("Unable to allocate 5.00 GiB for an array")))


def test_a_full_disk_is_told_without_a_path() -> None:
    assert "No space left" in str(machine_fault(OSError(errno.ENOSPC, "No space left on device")))


def test_an_expected_error_is_a_user_error_whatever_else_it_is() -> None:
    """The second base is what other code catches; the error survives the way between processes."""
    error = pickle.loads(pickle.dumps(DeadlineExceeded("waited 3 s for it")))
    assert isinstance(error, UserError)
    assert isinstance(error, TimeoutError)
    assert str(error) == "waited 3 s for it"
    assert (error.exit_status, ConfigError("x").exit_status) == (1, 2)
