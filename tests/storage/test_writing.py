"""Writing files: whatever fails, the old file or the new one is there, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import storage
from fit3d_cli.errors import StorageError
from tests.storage.common import NEW, OLD, fail_with, names


def test_written_bytes_come_back_and_parents_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "é 雪\n.bin"
    pieces = (piece for piece in (b"one ", b"", memoryview(b"two")))
    storage.write_bytes(path, pieces)
    assert path.read_bytes() == b"one two"
    assert names(path.parent) == [path.name]
    storage.write_bytes(path, [memoryview(NEW), NEW])
    assert path.read_bytes() == NEW + NEW
    assert storage.sha256_file(path) == storage.sha256_bytes(NEW + NEW)
    storage.write_bytes(path, b"")
    assert path.read_bytes() == b""


def test_pieces_come_to_what_was_announced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_bytes(path, iter([OLD, NEW]), size=len(OLD + NEW))
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match="announced"):
            storage.write_bytes(path, iter([NEW]), size=len(NEW) + wrong)
    assert path.read_bytes() == OLD + NEW
    assert names(tmp_path) == ["file"]


def test_a_name_of_255_bytes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("雪" * 85)
    storage.write_bytes(path, NEW)
    assert path.read_bytes() == NEW


def test_mode_follows_the_umask_and_then_the_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    previous = os.umask(0o027)
    try:
        storage.write_bytes(path, OLD)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    storage.write_bytes(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(OLD)
    link.symlink_to(target)
    storage.write_bytes(link, NEW)
    assert not link.is_symlink()
    assert (target.read_bytes(), link.read_bytes()) == (OLD, NEW)


def test_without_overwrite_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    storage.write_bytes(path, OLD, overwrite=False)
    with pytest.raises(StorageError, match="exists"):
        storage.write_bytes(path, NEW, overwrite=False)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize(
    "operation", ["open", "write", "posix_fallocate", "fsync", "replace", "link"]
)
def test_a_failing_operation_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    path = tmp_path / "sub" / "file"
    overwrite = operation != "link"
    if overwrite:
        storage.write_bytes(path, OLD)
    else:
        path.parent.mkdir()
    before = names(path.parent)
    with monkeypatch.context() as patch:
        if operation == "replace":
            patch.setattr(Path, operation, fail_with(code))
        else:
            patch.setattr(os, operation, fail_with(code))
        with pytest.raises(StorageError) as caught:
            storage.write_bytes(path, NEW, overwrite=overwrite)
    assert caught.value.exit_code == 3
    assert caught.value.where == str(path)
    assert caught.value.hint
    if code == errno.ENOSPC:
        assert f"{len(NEW)} bytes needed" in str(caught.value)
    assert names(path.parent) == before
    assert not overwrite or path.read_bytes() == OLD
    storage.write_bytes(path, NEW, overwrite=overwrite)  # the fault is gone: it works
    assert path.read_bytes() == NEW


def test_new_folders_are_on_disk_before_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def log(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", log)
    folder = tmp_path / "a" / "b"
    storage.write_bytes(folder / "file", NEW)
    assert synced[:2] == [str(tmp_path / "a"), str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", fail_with(errno.ENOSPC))
        storage.write_bytes(folder / "file", OLD)
        with pytest.raises(StorageError, match="no space"):
            storage.write_bytes(folder / "c" / "file", NEW)
    assert names(folder) == ["file"]


def test_a_failed_fsync_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "EIO")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError):
        storage.write_bytes(tmp_path / "file", NEW)
    assert len(calls) == 1


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_directory_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    fsync = os.fsync

    def fail_for_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    if code == errno.EINVAL:  # the filesystem has no such thing
        storage.write_bytes(path, NEW)
    else:
        with pytest.raises(StorageError):
            storage.write_bytes(path, NEW)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


def test_the_file_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def log_fsync(fd: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def log_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "replace", log_replace)
    storage.write_bytes(path, NEW)
    assert events == ["file", "rename", "directory"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    storage.write_bytes(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_temporary_sibling_publishes_or_disappears(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with storage.temporary_sibling(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(NEW)
        assert not path.exists()
    assert path.read_bytes() == NEW

    def interrupted() -> None:
        with storage.temporary_sibling(path) as temporary:
            temporary.write_bytes(OLD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == NEW
    with pytest.raises(StorageError), storage.temporary_sibling(path):
        pass  # the library wrote nothing
    assert names(tmp_path) == ["film.mp4"]


@pytest.mark.parametrize("place", [storage.temporary_sibling, storage.temporary_folder])
def test_what_a_library_cannot_write_is_typed(tmp_path: Path, place: Callable[..., Any]) -> None:
    def write(error: OSError) -> None:
        with place(tmp_path / "made.gif") as temporary:
            if error.filename == "below":
                error.filename = str(temporary / "image.jpg")
            raise error

    full = OSError(errno.ENOSPC, "no space left on device")
    for error in (full, OSError(errno.EIO, "error", "below")):
        with pytest.raises(StorageError, match=r"made\.gif: cannot be written"):
            write(error)
    for error in (OSError("cannot identify image file"), OSError(errno.EIO, "error", "/in.jpg")):
        with pytest.raises(OSError):
            write(error)
    assert names(tmp_path) == []


def test_json_is_sorted_and_never_nan(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert path.read_text() == '{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    with pytest.raises(ValueError):
        storage.write_json(path, float("nan"))
    storage.write_text(path, os.fsdecode(b"caf\xe9"))
    assert path.read_bytes() == b"caf\xe9"


def test_require_writable_proves_it(tmp_path: Path) -> None:
    storage.require_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == []  # proved on the nearest directory that is there
    file = tmp_path / "file"
    file.touch()
    for bad in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(StorageError) as caught:
            storage.require_writable(bad)
        assert caught.value.where == str(bad)
        assert caught.value.exit_code == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_require_writable_sees_a_read_only_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission"):
        storage.require_writable(tmp_path)
