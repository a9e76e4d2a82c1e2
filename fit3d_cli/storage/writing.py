"""Atomic, durable writing, and what is left over when a process is killed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.faults import failure, host_name, reason

_CHUNK = 1 << 20
_STALE_SECONDS = 24 * 3600
# ".<name>.<host>.<pid>.<random>.f3dtmp", then the final suffix where a library looks at it.
_TEMPORARY = re.compile(r"\..*\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}\.f3dtmp(\.[^.]*)?")


def write_bytes(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, overwrite: bool = True
) -> None:
    """Write a file atomically and durably; missing parent directories are made.

    Args:
        path: The file. A replaced file's mode is kept, a symlink is itself replaced.
        data: The content, or its pieces in order. A list or tuple of pieces has its space
            reserved first, so that a full disk is met before the first byte is written.
        overwrite: False refuses to replace an existing file, without a race.

    Raises:
        StorageError: The previous file, if any, is intact and the temporary file is gone. Only
            when the last step fails, forcing the directory to disk, is the new file there, whole.
    """
    pieces = [data] if isinstance(data, bytes) else data
    size = sum(map(_length, pieces)) if isinstance(pieces, (list, tuple)) else None
    temporary: Path | None = None
    try:
        _make_folder(path.parent)
        temporary = temporary_name(path, suffix="")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o666)
        try:
            _keep_mode(fd, path)
            if size:
                _reserve(fd, size)
            for piece in pieces:
                _write_all(fd, piece)
            os.fsync(fd)
        finally:
            os.close(fd)
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise failure(path, error, need=size) from error
    finally:
        _remove(temporary)


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
        StorageError: The library wrote nothing, or the file could not be published.
    """
    temporary: Path | None = None
    try:
        try:
            _make_folder(path.parent)
        except OSError as error:
            raise failure(path, error) from error
        temporary = temporary_name(path, suffix=path.suffix)
        yield temporary
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


def append_line(path: Path, text: str) -> None:
    """Append one line to a log in a single write, so that lines of processes never mix.

    Raises:
        ValueError: ``text`` has a line break.
        StorageError: The line was not written, or only in part.
    """
    if "\n" in text:
        raise ValueError("a log line holds a line break")
    line = f"{text}\n".encode("utf-8", "surrogateescape")
    try:
        _make_folder(path.parent)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
    except OSError as error:
        raise failure(path, error, need=len(line)) from error


def sweep(directory: Path) -> int:
    """Remove temporary files and folders that killed processes left in ``directory``.

    Only those of this host whose process is gone, and those older than a day; folders of this
    host never for their age, because long work fills them.

    Returns:
        How many were removed.
    """
    removed = 0
    try:
        files = list(directory.iterdir())
    except OSError:
        return 0
    for file in files:
        match = _TEMPORARY.fullmatch(file.name)
        if match is None:
            continue
        # Another process may sweep or publish the same file at this moment.
        with suppress(OSError):
            old = time.time() - file.lstat().st_mtime > _STALE_SECONDS
            here = match["host"] == host_name()
            dead = here and not _alive(int(match["pid"]))
            folder = file.is_dir() and not file.is_symlink()
            if dead or (old and not (folder and here)):
                shutil.rmtree(file) if folder else file.unlink()
                removed += 1
    return removed


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
        probe = temporary_name(there / "probe", suffix="")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise failure(directory, error) from error
    finally:
        _remove(probe)


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # of a file; one level deeper the system says it better
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def temporary_name(path: Path, *, suffix: str = "") -> Path:
    """A new name beside ``path`` that ``sweep`` recognises once this process is gone."""
    # File names end at 255 bytes and the final one may use them all: keep 80 of it.
    stem = os.fsencode(path.name)[:80].decode("utf-8", "ignore")
    random = secrets.token_hex(4)
    return path.with_name(f".{stem}.{host_name()}.{os.getpid()}.{random}.f3dtmp{suffix}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _length(piece: bytes | memoryview) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _write_all(fd: int, piece: bytes | memoryview) -> None:
    if not _length(piece):
        return
    rest = memoryview(piece).cast("B")
    while rest:
        # One write moves at most 2 GiB on Linux and may stop anywhere.
        rest = rest[os.write(fd, rest) :]


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
    if overwrite:
        temporary.replace(path)
    else:
        os.link(temporary, path, follow_symlinks=False)
        temporary.unlink()
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and user-space filesystems have no fsync for directories.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(fd)


def _remove(temporary: Path | None) -> None:
    if temporary is not None:
        with suppress(OSError):
            temporary.unlink()
