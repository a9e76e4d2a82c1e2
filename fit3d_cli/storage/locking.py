"""One writer at a time, across processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.disk import make_folder
from fit3d_cli.storage.faults import failure, host_name

_TRIES = 5  # a sweep takes the lock for an instant to see that nobody holds it
_PAUSE, _LONG_PAUSE = 0.02, 0.2  # seconds
_TELL_EVERY = 5.0  # seconds
_TELL_EVERY = 1.0  # seconds


@contextmanager
def locked(
    path: Path, *, blocking: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock ``<path>.lock``: one writer at a time, freed when its process dies.

    Args:
        path: What is being written; it need not exist.
        blocking: Wait for the lock instead of raising.
        on_wait: Told who holds it, each second of a longer wait.

    Raises:
        StorageError: Another process or thread holds it (its number is in the message), or
            the lock file cannot be made.
    """
    lock = path.with_name(f"{path.name}.lock")
    fd = -1
    try:
        try:
            make_folder(path.parent)
            while fd < 0:
                fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
                _wait(fd, path, blocking, on_wait)
                # The holder removes the file when it is done: a lock on a removed file is void.
                if not _same_file(fd, lock):
                    os.close(fd)
                    fd = -1
        except OSError as error:
            raise failure(lock, error) from error
        with suppress(OSError):  # who holds it is for people only; a full disk is no reason to stop
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"pid {os.getpid()} on {host_name()}\n".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()
    finally:
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def _wait(fd: int, path: Path, blocking: bool, on_wait: Callable[[str], None] | None) -> None:
    import fcntl

    def free() -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if blocking and on_wait is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    for _ in range(_TRIES):
        if free():
            return
        time.sleep(_PAUSE)
    told = -_TELL_EVERY
    while not free():
        holder = os.pread(fd, 100, 0).decode(errors="replace").strip() or "another process"
        if not blocking or on_wait is None:
            raise StorageError(
                f"being written by {holder}", where=path, hint="wait until it has finished"
            )
        if time.monotonic() >= told + _TELL_EVERY:
            told = time.monotonic()
            on_wait(holder)
        time.sleep(_LONG_PAUSE)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
