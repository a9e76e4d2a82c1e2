"""Whole folders: filled under a temporary name, forced to disk, then given their final one."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.disk import open_directory, sync_directory, sync_names
from fit3d_cli.storage.faults import concerns, failure
from fit3d_cli.storage.temporaries import (
    aside_name,
    hold,
    make_ready,
    remove,
    sweep,
    temporary_name,
)

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which takes its name when the block ends cleanly.

    A folder that is there already changes places with it and is then removed: the name always
    leads to the whole old or the whole new one. Where the filesystem cannot exchange names the
    old one is put aside first, and a process killed between leaves it there for ``sweep``, which
    gives it its name back. On an exception the temporary folder goes and ``path`` stays.

    Raises:
        StorageError: It cannot be made or published. Only when the last step fails, forcing the
            directory to disk, is the new folder there, whole. Also what the block could not write
            below the temporary folder.
    """
    with ExitStack() as stack:
        try:
            make_ready(path.parent)
            temporary = stack.enter_context(_held_folder(path))
        except OSError as error:
            raise failure(path, error) from error
        try:
            yield temporary
        except OSError as error:
            if concerns(error, temporary):
                raise failure(path, error) from error
            raise
        try:
            _to_disk(temporary)
            _publish(temporary, path)
        except OSError as error:
            raise failure(path, error) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder where the system keeps temporary files, for this user alone.

    The standard library's outlives a killed process for ever; this one until the next call.

    Raises:
        StorageError: It cannot be made.
    """
    path = Path(tempfile.gettempdir()) / "fit3d"
    sweep(path.parent)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(_held_folder(path, 0o700))
        except OSError as error:
            raise failure(path, error) from error
        yield folder


def require_room(path: Path, need: int) -> None:
    """Refuse to start what will not fit on the disk of ``path``, which need not be there yet.

    Args:
        path: What is going to be written.
        need: Bytes, roughly.

    Raises:
        StorageError: Fewer are free.
    """
    whole = path.absolute()
    there = next(p for p in (whole, *whole.parents) if p.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise failure(path, error) from error
    if free < need:
        raise StorageError(
            f"needs about {_megabytes(need)}, {_megabytes(free)} free",
            where=path,
            hint="free some space or choose another --workspace",
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


@contextmanager
def _held_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """An empty folder under a temporary name; what has this name in the end is removed.

    Raises:
        OSError: The system refused.
    """
    with ExitStack() as stack:
        while True:
            temporary = temporary_name(path)
            temporary.mkdir(mode)
            stack.callback(remove, temporary)
            with suppress(FileNotFoundError):  # a sweep was faster: take another name
                fd = open_directory(temporary)
                stack.callback(_close, fd)
                if hold(fd):
                    break
        yield temporary


def _publish(temporary: Path, path: Path) -> None:
    fd = open_directory(path.parent)
    try:
        old = _take_name(temporary, path)
        sync_names(fd)
    finally:
        os.close(fd)
    if old is not None:
        remove(old)


def _take_name(temporary: Path, path: Path) -> Path | None:
    """Rename; returns where the previous folder is now."""
    if not os.path.lexists(path):
        temporary.rename(path)
        return None
    if _exchange(temporary, path):
        return temporary
    aside = aside_name(path)
    with ExitStack() as stack:
        with suppress(OSError):  # a sweep must not give it its name back meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(_close, fd)
            hold(fd)
        path.rename(aside)
        try:
            temporary.rename(path)
        except OSError:
            aside.rename(path)
            raise
    return aside


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places at one stroke; False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code))


def _to_disk(folder: Path) -> None:
    def stop(error: OSError) -> None:
        raise error  # what cannot be listed would not be forced to disk

    for base, _, files in os.walk(folder, onerror=stop):
        for name in files:
            file = Path(base, name)
            # A hard link to a file of the user's is on the disk already.
            if not file.is_symlink() and file.stat().st_nlink == 1:
                _force(file)
        sync_directory(Path(base))


def _force(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)
