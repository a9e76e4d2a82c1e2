"""Atomic, durable writing of files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.disk import open_directory, sync_names
from fit3d_cli.storage.faults import concerns, failure, reason
from fit3d_cli.storage.temporaries import make_ready, new_file, temporary_name

_CHUNK = 1 << 20


def write_bytes(
    path: Path,
    data: bytes | Iterable[bytes | memoryview],
    *,
    overwrite: bool = True,
    size: int | None = None,
) -> None:
    """Write a file atomically and durably; missing parent directories are made.

    Args:
        path: The file. A replaced file's mode is kept, a symlink is itself replaced.
        data: The content, or its pieces in order. A list or tuple of pieces has its space
            reserved first, so that a full disk is met before the first byte is written.
        overwrite: False refuses to replace an existing file, without a race.
        size: What the pieces of any other iterable come to in bytes, for the same reason.

    Raises:
        ValueError: The pieces come to another ``size``.
        StorageError: The previous file, if any, is intact and the temporary file is gone. Only
            when the last step fails, forcing the directory to disk, is the new file there, whole.
    """
    pieces = [data] if isinstance(data, bytes) else data
    if isinstance(pieces, (list, tuple)):
        size = sum(map(_length, pieces))
    temporary: Path | None = None
    fd = -1
    try:
        fd, temporary = new_file(path)
        _keep_mode(fd, path)
        if size:
            _reserve(fd, size)
        written = 0
        for piece in pieces:
            _write_all(fd, piece)
            written += _length(piece)
        if size not in (None, written):  # what was reserved beyond would stay as zeros
            raise ValueError(f"{written} bytes of {size} that were announced")
        os.fsync(fd)
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise failure(path, error, need=size) from error
    finally:
        _remove(temporary)
        if fd >= 0:
            with suppress(OSError):  # it is on the disk already, or the error has been told
                os.close(fd)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text as ``write_bytes`` does; file names in it may hold undecodable bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), overwrite=overwrite)


def write_json(path: Path, obj: Any, *, overwrite: bool = True) -> None:
    """Write readable JSON with sorted keys and a trailing newline.

    Raises:
        ValueError: ``obj`` holds NaN or infinity, which JSON has no word for.
        StorageError: As ``write_bytes``.
    """
    text = json.dumps(obj, sort_keys=True, indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode(), overwrite=overwrite)


@contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """A temporary path for a library that insists on writing to a path itself.

    Yields:
        A path in the same directory with the same suffix, not yet existing. At a clean exit
        the file is forced to disk and renamed to ``path``; on an exception it is removed.

    Raises:
        StorageError: The library could not write or wrote nothing, or the file could not be
            published.
    """
    temporary: Path | None = None
    try:
        try:
            make_ready(path.parent)
        except OSError as error:
            raise failure(path, error) from error
        temporary = temporary_name(path, suffix=path.suffix)
        try:
            yield temporary
        except OSError as error:
            if concerns(error, temporary):
                raise failure(path, error) from error
            raise
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _keep_mode(fd, path)
                os.fsync(fd)
            finally:
                os.close(fd)
            _publish(temporary, path, overwrite=True)
        except OSError as error:
            raise failure(path, error) from error
    finally:
        _remove(temporary)


def require_writable(directory: Path) -> None:
    """Prove that a file can be written in ``directory``, which need not be there yet.

    Nothing is left behind and nothing is made: a run that is refused for its input must not
    have touched the disk. Where the directory is missing, its nearest ancestor stands for it.

    Raises:
        StorageError: It cannot; ``where`` is the directory.
    """
    probe: Path | None = None
    try:
        whole = directory.absolute()
        there = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise StorageError(
                "is a file, not a directory" if there == whole else f"{there} is a file",
                where=directory,
                hint="choose another directory",
            )
        if _without_a_name(there):
            return
        probe = temporary_name(there / "probe")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise failure(directory, error) from error
    finally:
        _remove(probe)


def _without_a_name(directory: Path) -> bool:
    """Try with a file that no kill can leave behind; False where the system has no such thing."""
    try:
        os.close(os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
    except (AttributeError, OSError):
        return False
    return True


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hex sha256 of a buffer."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content.

    Raises:
        StorageError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    except OSError as error:
        raise StorageError(
            f"cannot be read: {reason(error)}", where=path, hint="check the path and its mode"
        ) from error
    return digest.hexdigest()


def _length(piece: bytes | memoryview) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _write_all(fd: int, piece: bytes | memoryview) -> None:
    if not _length(piece):
        return
    rest = memoryview(piece).cast("B")
    while rest:
        # One write moves at most 2 GiB on Linux and may stop anywhere.
        count = os.write(fd, rest)
        if not count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[count:]


def _reserve(fd: int, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _keep_mode(fd: int, path: Path) -> None:
    with suppress(OSError):  # some filesystems have no modes
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            os.fchmod(fd, stat.S_IMODE(status.st_mode) & 0o777)


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    folder = open_directory(path.parent)
    try:
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path, follow_symlinks=False)
            temporary.unlink()
        sync_names(folder)
    finally:
        os.close(folder)


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        with suppress(OSError):
            temporary.unlink()
