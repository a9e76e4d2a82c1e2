"""Whole folders."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fit3d_cli import storage
from fit3d_cli.errors import StorageError
from fit3d_cli.storage import folders, temporaries
from tests.storage.common import leftover, names


def fill(path: Path, text: str) -> None:
    with storage.temporary_folder(path) as folder:
        (folder / "a").write_text(text)


def test_a_folder_takes_the_name_whole(tmp_path: Path) -> None:
    path = tmp_path / "made"
    fill(path, "one")
    fill(path, "two")
    assert names(tmp_path) == ["made"]
    assert (path / "a").read_text() == "two"
    with pytest.raises(KeyError), storage.temporary_folder(path) as folder:
        (folder / "a").write_text("three")
        raise KeyError
    assert (path / "a").read_text() == "two"
    (tmp_path / "link").symlink_to(path)
    fill(tmp_path / "link", "four")  # the link is replaced, not what it leads to
    assert (path / "a").read_text() == "two"
    assert names(tmp_path) == ["link", "made"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_filesystem_that_cannot_exchange_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    path = tmp_path / "made"
    fill(path, "one")
    monkeypatch.setattr(folders, "_exchange", lambda *_: False)
    fill(path, "two")
    assert names(tmp_path) == ["made"]
    assert (path / "a").read_text() == "two"
    if killed:  # between the two renames
        path.rename(temporaries.aside_name(path))
        assert storage.sweep(tmp_path) == 1
    else:
        rename, calls = Path.rename, []

        def fail_second(self: Path, target: Path) -> Path:
            calls.append(target)
            if len(calls) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fail_second)
        with pytest.raises(StorageError, match="input/output"):
            fill(path, "three")
    assert names(tmp_path) == ["made"]
    assert (path / "a").read_text() == "two"
    temporaries.aside_name(path).mkdir()  # its successor came
    assert storage.sweep(tmp_path) == 1
    assert (path / "a").read_text() == "two"


def test_scratch_goes_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    leftover(tmp_path, "fit3d", pid=4_000_000).mkdir()
    with storage.scratch_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []
