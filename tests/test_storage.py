"""Writing files: whatever fails, the old file or the new one is there, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fit3d_cli import storage
from fit3d_cli.errors import StorageError

ROOT = str(Path(__file__).parents[1])
OLD = b"old content"
NEW = b"new content " * 1000


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


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


def fail_with(code: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize(
    "operation", ["open", "write", "posix_fallocate", "fsync", "replace", "link", "mkdir"]
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
        if operation in ("replace", "mkdir"):
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


LIMITED = """
import resource, sys
from pathlib import Path
from fit3d_cli import storage
from fit3d_cli.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
data = bytes(10000)
for pieces in ([data], iter([data])):  # reserved at once, and written until it stops
    try:
        storage.write_bytes(Path(sys.argv[1]), pieces)
    except StorageError as error:
        print(error)
"""


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip


def test_a_file_size_limit_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    process = run_python(LIMITED, path)
    output, _ = process.communicate(timeout=60)
    assert output.count("file too large") == 2, output
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from fit3d_cli import storage

def pieces():
    yield b"x" * 5000
    os.kill(os.getpid(), signal.SIGKILL)

storage.write_bytes(Path(sys.argv[1]), pieces())
"""
LOOP = """
import sys
from pathlib import Path
from fit3d_cli import storage
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        storage.write_bytes(Path(sys.argv[1]), byte * 300_000)
"""


def test_a_killed_writer_leaves_the_old_file_and_sweep_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    process = run_python(KILLED, path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    assert len(names(tmp_path)) == 2
    assert storage.sweep(tmp_path) == 1
    assert names(tmp_path) == ["file"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    for trial in range(4):
        process = run_python(LOOP, path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 + 0.011 * trial)
        process.kill()
        process.communicate(timeout=60)
        content = path.read_bytes()
        assert content in (OLD, b"a" * 300_000, b"b" * 300_000)
        storage.sweep(tmp_path)
        assert names(tmp_path) == ["file"]


def test_sweep_spares_what_may_be_alive(tmp_path: Path) -> None:
    old = time.time() - 25 * 3600
    mine = tmp_path / f".a.{storage.faults.host_name()}.{os.getpid()}.01234567.f3dtmp"
    foreign = tmp_path / ".b.elsewhere.1.01234567.f3dtmp.mp4"
    stale = tmp_path / ".c.elsewhere.1.01234567.f3dtmp"
    other = tmp_path / "notes.f3dtmp"
    for file in (mine, foreign, stale, other):
        file.touch()
    os.utime(stale, (old, old))
    os.utime(other, (old, old))
    assert storage.sweep(tmp_path) == 1
    assert names(tmp_path) == sorted([mine.name, foreign.name, other.name])
    assert storage.sweep(tmp_path / "absent") == 0


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


def test_json_is_sorted_and_never_nan(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert path.read_text() == '{\n  "a": "\\u00e9",\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    with pytest.raises(ValueError):
        storage.write_json(path, float("nan"))
    storage.write_text(path, os.fsdecode(b"caf\xe9"))
    assert path.read_bytes() == b"caf\xe9"


def test_log_lines_are_appended_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"

    def append(k: int) -> None:
        for _ in range(20):
            storage.append_line(path, f"{k}" * 50)

    threads = [threading.Thread(target=append, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().splitlines()) == sorted([f"{k}" * 50 for k in range(4)] * 20)
    with pytest.raises(ValueError):
        storage.append_line(path, "two\nlines")
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(StorageError, match="no space"):
        storage.append_line(path, "half")


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


def test_one_holder_of_a_lock_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    order: list[str] = []

    def wait() -> None:
        with storage.locked(path, blocking=True):
            order.append("second")

    with storage.locked(path):
        with pytest.raises(StorageError, match=f"pid {os.getpid()} "), storage.locked(path):
            pass
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    with storage.locked(path):
        pass
    assert names(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from fit3d_cli import storage
with storage.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "scene.f3d"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StorageError, match=f"pid {process.pid} "), storage.locked(path):
        pass
    process.kill()
    process.communicate(timeout=60)
    with storage.locked(path):
        pass
