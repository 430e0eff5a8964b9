"""Errors a user can mend: one base for all of them, and the faults of a machine among them."""

from __future__ import annotations

import errno
from pathlib import Path


class UserError(Exception):
    """Something is wrong that a user can mend; the message says what, where, and the remedy.

    A command shows the message alone and ends with ``exit_status``. Any other exception is a defect of ours and keeps
    its traceback.
    """

    exit_status = 1
    is_defect = False
    """Whether a mistake of the code is behind it after all, so that the traceback is shown too."""


class MachineFault(UserError):
    """The machine refused a file or folder; names it and the remedy."""


_NO_SUPPORT = (
    "the file system has no file locks or lacks another operation",
    "choose another one, such as a local disk",
)
_DENIED = ("permission denied", "change who may use it, or choose another place, such as another output_root")
_NO_MEMORY = ("the machine has no memory left for this process", "free some, or raise the limit (`ulimit -v`)")
_OPEN_FILES = ("too many files are open", "raise the limit with `ulimit -n`")

# Error number -> (what is wrong, what to do).
_FAULTS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or have the quota raised"),
    errno.EROFS: ("the file system is read-only", "choose another place, such as another output_root"),
    errno.EFBIG: ("the file is larger than is allowed here", "raise the limit (`ulimit -f`), or choose another place"),
    errno.EIO: ("the disk cannot read or write what is there", "choose another one"),
    errno.ESTALE: ("the network file system has lost the file", "mount it anew"),
    errno.ENOMEM: _NO_MEMORY,
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ENOLCK: _NO_SUPPORT,
    errno.ENOTSUP: _NO_SUPPORT,
    errno.ENOSYS: _NO_SUPPORT,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
}
# Raised for many reasons where no file is named: then they are not about one.
_ONLY_OF_FILES = {errno.EIO, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EPERM}


def machine_fault(error: Exception, path: str | Path | None = None) -> MachineFault | None:
    """``error`` as something a user can mend; None where it is nothing of the kind.

    ``path`` is what was asked for, where the error itself names no file (as those of ``flock``).
    """
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, str(error) or "Cannot allocate memory")
    if not isinstance(error, OSError):
        return None
    place = error.filename or path
    if error.errno not in _FAULTS or (place is None and error.errno in _ONLY_OF_FILES):
        return None
    what, remedy = _FAULTS[error.errno]
    return MachineFault(f"{what} ({place or error}): {remedy}, then run the same command again")
