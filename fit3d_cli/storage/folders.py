"""Whole folders: filled under a temporary name, forced to disk, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fit3d_cli.errors import StorageError
from fit3d_cli.storage.faults import failure
from fit3d_cli.storage.writing import temporary_name


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, which takes its name when the block ends cleanly.

    A folder that is there already is replaced: it is renamed, then removed. On an exception the
    temporary folder goes and ``path`` stays as it was; what a killed process leaves is found by
    ``sweep``.

    Raises:
        StorageError: It cannot be made or published.
    """
    temporary = temporary_name(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise failure(path, error) from error
        yield temporary
        try:
            _to_disk(temporary)
            replaced = temporary_name(path)
            if path.exists():
                path.rename(replaced)
            try:
                temporary.rename(path)
            except OSError:
                if replaced.exists():
                    replaced.rename(path)
                raise
            _force(path.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise failure(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _to_disk(folder: Path) -> None:
    for base, _, files in os.walk(folder):
        for name in files:
            file = Path(base, name)
            # A hard link to a file of the user's is on the disk already.
            if not file.is_symlink() and file.stat().st_nlink == 1:
                _force(file)
        _force(Path(base))


def _force(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        if not path.is_dir():  # some filesystems have no fsync for directories
            raise
    finally:
        os.close(fd)
