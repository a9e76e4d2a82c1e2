"""One writer at a time, across processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.faults import failure, host_name


@contextmanager
def locked(path: Path, *, blocking: bool = False) -> Iterator[None]:
    """Hold the lock ``<path>.lock``: one writer at a time, freed when its process dies.

    Args:
        path: What is being written; it need not exist.
        blocking: Wait for the lock instead of raising.

    Raises:
        StorageError: Another process or thread holds it (its number is in the message), or
            the lock file cannot be made.
    """
    import fcntl

    lock = path.with_name(f"{path.name}.lock")
    operation = fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, operation)
                # The holder removes the file when it is done: a lock on a removed file is void.
                current = _same_file(fd, lock)
            except BlockingIOError as error:
                holder = os.pread(fd, 100, 0).decode(errors="replace").strip() or "another process"
                os.close(fd)
                raise StorageError(
                    f"being written by {holder}", where=path, hint="wait until it has finished"
                ) from error
            except BaseException:
                os.close(fd)
                raise
            if current:
                break
            os.close(fd)
    except OSError as error:
        raise failure(lock, error) from error
    try:
        with suppress(OSError):  # who holds it is for people only; a full disk is no reason to stop
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"pid {os.getpid()} on {host_name()}\n".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
