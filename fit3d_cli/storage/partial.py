"""A file that comes in pieces, over several runs perhaps, and gets its name when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

from fit3d_cli.storage.disk import make_folder, sync_directory
from fit3d_cli.storage.faults import failure
from fit3d_cli.storage.temporaries import temporary_name


class Partial:
    """What is there of a file so far, beside it under ``<name>.incomplete``.

    Whoever adds to it must hold ``locked(path)``.

    Args:
        path: The name that it will have.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.there = path, path.with_name(f"{path.name}.incomplete")

    @property
    def size(self) -> int:
        """Bytes so far."""
        try:
            return self.there.lstat().st_size
        except OSError:
            return 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises:
            StorageError: They could not be written; what was there before still is.
        """
        try:
            make_folder(self.there.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.there, flags, 0o666)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            finally:
                os.close(fd)
        except OSError as error:
            raise failure(self.path, error) from error

    def discard(self) -> None:
        """Begin anew.

        Raises:
            StorageError: What is there cannot be removed.
        """
        try:
            self.there.unlink(missing_ok=True)
        except OSError as error:
            raise failure(self.there, error) from error

    def publish(self) -> None:
        """Force it to disk and give it its name.

        Raises:
            StorageError: It could not be done.
        """
        try:
            fd = os.open(self.there, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self.there.replace(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise failure(self.path, error) from error


def write_link(path: Path, target: str) -> None:
    """A symbolic link, atomically; what had the name is replaced.

    Raises:
        StorageError: It could not be made.
    """
    temporary = temporary_name(path)
    try:
        make_folder(path.parent)
        temporary.symlink_to(target)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise failure(path, error) from error
