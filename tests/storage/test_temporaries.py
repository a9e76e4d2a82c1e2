"""What killed processes leave, and who clears it away."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fit3d_cli import storage
from fit3d_cli.storage import folders, temporaries
from tests.storage.common import NEW, OLD, ROOT, fail_with, leftover, names

KILLED = """
import os, signal, sys
from pathlib import Path
from fit3d_cli import storage

def pieces():
    yield b"x" * 5000
    os.kill(os.getpid(), signal.SIGKILL)

storage.write_bytes(Path(sys.argv[1]), pieces())
"""


def test_a_killed_writer_leaves_the_old_file_and_sweep_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": ROOT}
    )
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    assert len(names(tmp_path)) == 2
    assert storage.sweep(tmp_path) == 1
    assert names(tmp_path) == ["file"]


def test_sweep_spares_what_may_be_alive(tmp_path: Path) -> None:
    old = time.time() - 25 * 3600
    film = leftover(tmp_path, "a", kind="f3dtmp.mp4")  # no library holds its own file
    foreign = leftover(tmp_path, "b", "elsewhere", 1, "f3dtmp.mp4")
    stale = leftover(tmp_path, "c", "elsewhere", 1)
    other = tmp_path / "notes.f3dtmp"
    for file in (film, foreign, stale, other):
        file.touch()
    os.utime(stale, (old, old))
    os.utime(other, (old, old))
    assert storage.sweep(tmp_path) == 1
    assert names(tmp_path) == sorted([film.name, foreign.name, other.name])
    assert storage.sweep(tmp_path / "absent") == 0


@pytest.mark.parametrize("pid", [os.getpid(), 1, 4_000_000], ids=["ours", "the first", "gone"])
def test_a_lock_tells_who_lives_not_a_number(tmp_path: Path, pid: int) -> None:
    """Numbers come again, and containers that share a host name do not see each other's."""
    file, folder = leftover(tmp_path, "file", pid=pid), leftover(tmp_path, "folder", pid=pid)
    file.touch()
    folder.mkdir()
    fds = [os.open(path, os.O_RDONLY) for path in (file, folder)]
    assert all(map(temporaries.hold, fds))
    assert storage.sweep(tmp_path) == 0
    for fd in fds:
        os.close(fd)
    assert storage.sweep(tmp_path) == 2
    assert names(tmp_path) == []


def test_without_locks_the_number_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOLCK))
    alive, dead = leftover(tmp_path, "alive"), leftover(tmp_path, "dead", pid=4_000_000)
    folder = leftover(tmp_path, "folder")
    for file in (alive, dead):
        file.touch()
    folder.mkdir()
    old = time.time() - 25 * 3600
    os.utime(folder, (old, old))
    assert storage.sweep(tmp_path) == 1
    assert names(tmp_path) == sorted([alive.name, folder.name])
    storage.write_bytes(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_what_a_sweep_takes_is_named_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, held = temporaries.hold, []

    def late(fd: int) -> bool:
        held.append(fd)
        if len(held) % 2:  # a sweep of another container got between
            for path in tmp_path.glob(".*.f3dtmp"):
                temporaries.remove(path)
        return hold(fd)

    monkeypatch.setattr(temporaries, "hold", late)
    monkeypatch.setattr(folders, "hold", late)
    storage.write_bytes(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    with storage.temporary_folder(tmp_path / "made") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == ["file", "made"]
    assert len(held) == 4


def test_a_folder_that_a_sweep_takes_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, taken = folders.open_directory, []

    def late(path: Path) -> int:
        if not taken:
            taken.append(path)
            temporaries.remove(path)
        return opened(path)

    monkeypatch.setattr(folders, "open_directory", late)
    with storage.temporary_folder(tmp_path / "made") as folder:
        (folder / "a").touch()
    assert names(tmp_path) == ["made"]
    assert len(taken) == 1


def test_locks_of_the_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    dead, empty, theirs = (tmp_path / f"{n}.lock" for n in ("dead", "empty", "poetry"))
    dead.write_text("pid 4000000 on host\n")
    empty.touch()
    theirs.write_text("[[package]]\n")
    with storage.locked(tmp_path / "scene"):
        assert storage.sweep(tmp_path) == 1
        assert names(tmp_path) == ["empty.lock", "poetry.lock", "scene.lock"]
        assert storage.sweep(tmp_path, ours=True) == 1
    assert names(tmp_path) == ["poetry.lock"]


def test_a_killed_export_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    leftover(tmp_path, "scene.ply", pid=4_000_000).touch()
    storage.write_bytes(tmp_path / "other.ply", NEW)
    assert names(tmp_path) == ["other.ply"]
