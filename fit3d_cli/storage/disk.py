"""What the system has to be told so that names, not only bytes, survive a loss of power."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_ABSENT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and force their names to disk.

    Raises:
        OSError: The system refused.
    """
    made = []
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        made.append(path)
    if not made:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # of a file; one level deeper the system says it better
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    for path in made:
        sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Force the names in a folder to disk.

    Raises:
        OSError: The system refused.
    """
    fd = open_directory(folder)
    try:
        sync_names(fd)
    finally:
        os.close(fd)


def open_directory(folder: Path) -> int:
    """A descriptor of a folder.

    Raises:
        OSError: The system refused.
    """
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_names(fd: int) -> None:
    """Force the names in an open folder to disk, where its filesystem knows how to.

    Raises:
        OSError: The system refused; it is not asked again.
    """
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and user-space filesystems have no fsync for directories.
        if error.errno not in _ABSENT:
            raise
