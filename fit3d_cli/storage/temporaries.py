"""Names that files and folders have until they are whole, and what killed processes left of them.

Who fills a temporary file or folder holds a lock on it, which dies with the process. The number
of a process alone does not say whether it lives: numbers come again, and containers that share a
disk and a host name do not see each other's processes.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from fit3d_cli.storage.disk import make_folder
from fit3d_cli.storage.faults import host_name

_STALE_SECONDS = 24 * 3600
_STEM_BYTES = 80  # of the final name in a temporary one: names end at 255 bytes
# ".<name>.<host>.<pid>.<random>.f3dtmp", then the final suffix where a library looks at it; with
# ".f3dold" a folder that was put aside for its successor, under its whole name.
_TEMPORARY = re.compile(
    r"\.(?P<name>.*)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]{8}"
    r"\.(?P<kind>f3dtmp|f3dold)(?P<suffix>\.[^.]*)?",
    re.DOTALL,
)
_HOLDER = re.compile(rb"pid \d+ on [A-Za-z0-9-]+\n")
_swept: set[Path] = set()


def temporary_name(path: Path, *, suffix: str = "") -> Path:
    """A new name beside ``path`` that ``sweep`` recognises once this process is gone."""
    stem = os.fsencode(path.name)[:_STEM_BYTES].decode("utf-8", "ignore")
    return _beside(path, stem, f"f3dtmp{suffix}")


def aside_name(path: Path) -> Path:
    """A new name beside ``path`` from which ``sweep`` gives it back if nothing took its place."""
    return _beside(path, path.name, "f3dold")


def _beside(path: Path, name: str, kind: str) -> Path:
    random = secrets.token_hex(4)
    return path.with_name(f".{name}.{host_name()}.{os.getpid()}.{random}.{kind}")


def new_file(path: Path) -> tuple[int, Path]:
    """A temporary file beside ``path``, open for writing and held; missing folders are made.

    Raises:
        OSError: The system refused.
    """
    make_ready(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = temporary_name(path)
        fd = os.open(temporary, flags, 0o666)
        held = False
        try:
            held = hold(fd)
        finally:
            if not held:
                os.close(fd)
                remove(temporary)
        if held:
            return fd, temporary


def make_ready(folder: Path) -> None:
    """Make a folder for a temporary name in it, and sweep it if this process never has.

    What a killed export left lies outside any workspace, where nothing else looks.

    Raises:
        OSError: The system refused.
    """
    make_folder(folder)
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def hold(fd: int) -> bool:
    """Mark an open temporary file or folder as one whose writer lives.

    Returns:
        False if a sweep was faster and removes it: take another name.
    """
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a filesystem without locks: the number of the process has to do
        return True
    return os.fstat(fd).st_nlink > 0


def remove(path: Path) -> None:
    """Remove a file, symlink or whole folder; what cannot be removed is left for ``sweep``."""
    with suppress(OSError):
        try:
            path.unlink()
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(path)


def sweep(directory: Path, *, ours: bool = False) -> int:
    """Remove what killed processes left in ``directory``: temporary files, folders, locks.

    What somebody holds stays; so does what another host has touched within a day, and what may
    belong to a living process where the filesystem has no locks. A folder that was put aside
    for a successor that never came gets its name back.

    Args:
        directory: Looked through itself, not what is below.
        ours: Nobody but fit3d keeps locks there, so that an empty one is a leftover, too.

    Returns:
        How many were removed.
    """
    try:
        paths = list(directory.iterdir())
    except OSError:
        return 0
    removed = 0
    for path in paths:
        # Another process may sweep or publish the same file at this moment.
        with suppress(OSError):
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None:
                removed += _clear(path, match)
            elif path.suffix == ".lock":
                removed += _clear_lock(path, ours)
    return removed


def _clear(path: Path, match: re.Match[str]) -> bool:
    fd, held = _try_to_hold(path)
    try:
        if held or not _abandoned(path, match, lockable=held is not None):
            return False
        final = path.with_name(match["name"])
        if match["kind"] == "f3dold" and not os.path.lexists(final):
            path.rename(final)
        else:
            remove(path)
        return True
    finally:
        if fd >= 0:
            os.close(fd)


def _abandoned(path: Path, match: re.Match[str], *, lockable: bool) -> bool:
    """Whether nobody will come back to what nobody is known to hold."""
    if match["host"] == host_name():
        if not _alive(int(match["pid"])) or (lockable and not match["suffix"]):
            return True  # a library that writes to a path of its own holds no lock
        if path.is_dir() and not path.is_symlink():
            return False  # long work fills it
    return time.time() - _touched(path) > _STALE_SECONDS


def _touched(path: Path) -> float:
    """When a file or anything in a folder last changed."""
    times = [path.lstat().st_mtime]
    for base, _, files in os.walk(path):
        times += [os.lstat(entry).st_mtime for entry in (base, *(f"{base}/{f}" for f in files))]
    return max(times)


def _try_to_hold(path: Path) -> tuple[int, bool | None]:
    """An open file, -1 if there is none, and whether somebody holds it; None: no way to tell."""
    import fcntl

    common = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, os.O_RDWR | common)  # some network filesystems lock no other files
    except OSError as error:
        if error.errno != errno.EISDIR:
            return -1, None
        fd = os.open(path, os.O_RDONLY | common)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return fd, True
    except OSError:
        return fd, None
    return fd, False


def _clear_lock(path: Path, ours: bool) -> bool:
    """Remove a lock file whose holder was killed; it is void without one, but litter."""
    fd, held = _try_to_hold(path)
    try:
        if held is not False:
            return False
        told = os.pread(fd, 100, 0)
        if not (_HOLDER.fullmatch(told) or (ours and not told)):
            return False
        if os.path.samestat(os.fstat(fd), path.lstat()):
            path.unlink()
            return True
        return False
    finally:
        if fd >= 0:
            os.close(fd)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
