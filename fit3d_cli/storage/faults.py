"""One typed error for every way in which a file cannot be written."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

from fit3d_cli.errors import StorageError

_HINTS = {
    errno.ENOSPC: "free some space or choose another output directory",
    errno.EDQUOT: "free some of your quota or choose another output directory",
    errno.EFBIG: "raise the file-size limit or choose another output directory",
    errno.EACCES: "make the directory writable or choose another one",
    errno.EPERM: "choose a directory on a local disk and copy the result",
    errno.EROFS: "choose a directory that is not mounted read-only",
    errno.EXDEV: "choose a directory on a local disk and copy the result",
    errno.ENOSYS: "choose a directory on a local disk and copy the result",
    errno.EOPNOTSUPP: "choose a directory on a local disk and copy the result",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file; choose another directory",
    errno.EISDIR: "a directory has this name; choose another name",
    errno.EEXIST: "choose another name or remove it first",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
}


def reason(error: OSError) -> str:
    """The system's words for an error, in lower case."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def failure(path: Path, error: OSError, *, need: int | None = None) -> StorageError:
    """The error to raise: what failed, how much space is missing, what to do.

    Args:
        path: The file that was being written.
        error: What the system said.
        need: Bytes of the whole file, where known.
    """
    what = f"cannot be written: {reason(error)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and need is not None:
        what += f" ({need} bytes needed, {_free(path)} free)"
    hint = _HINTS.get(error.errno or 0, "choose another output directory")
    return StorageError(what, where=path, hint=hint)


def concerns(error: OSError, temporary: Path) -> bool:
    """Whether an error is one of writing below ``temporary``, not one of reading elsewhere.

    A failing ``write`` names no file; pictures that are none raise ``OSError`` without a number.
    """
    name = error.filename
    if name is None or isinstance(name, int):
        return error.errno is not None
    return os.fsdecode(name).startswith(str(temporary))


def _free(path: Path) -> str:
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return "unknown"
    return str(status.f_bavail * status.f_frsize)


def host_name() -> str:
    """This machine's name, as temporary files and locks carry it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
