"""Sources become captures once, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fit3d_cli import storage
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.base import SourceOptions
from fit3d_cli.capture.sources.facts import FACTS, source_figures, write_facts
from fit3d_cli.capture.sources.prepare import prepare_source
from fit3d_cli.errors import CaptureError, StorageError
from fit3d_cli.progress import Progress, ignore
from fit3d_cli.workspace import Workspace

Fake = Callable[..., None]


@pytest.fixture
def made(trees, fake: Fake, workspace: Path, scan: Path) -> Callable[..., bool]:
    """Runs the fake source, which writes a capture; counts its calls."""

    def make(path: Path, folder: Path, options: SourceOptions, on_event: object) -> None:
        run.calls += 1  # type: ignore[attr-defined]
        shutil.rmtree(folder)
        trees.write("colmap", folder)
        write_facts(folder, [f"{options.frames} frames"], {"photos": 5})
        if path.read_text() == "broken":
            raise CaptureError("broken", where=path, hint="mend it")
        if path.read_text() == "poor":
            (folder / "images/left/im 0.png").unlink()

    def run(**options: object) -> bool:
        place = Workspace(workspace).made_capture("hall")
        return prepare_source(scan, "fake", place, SourceOptions(**options), ignore)  # type: ignore[arg-type]

    run.calls = 0  # type: ignore[attr-defined]
    fake("fake", make, options=("frames",))
    return run


def left(workspace: Path) -> list[str]:
    return sorted(path.name for path in workspace.glob("captures/*"))


def test_made_once(made: Callable[..., bool], workspace: Path, scan: Path) -> None:
    place = workspace / "captures/hall"
    assert made() is True
    capture = read_capture(place)
    assert capture.reader == "colmap" and capture.notes == ("0 frames",)
    assert source_figures(place) == {"photos": 5}
    assert made() is False
    assert made(max_side=77) is False  # an option that it does not use
    assert made.calls == 1  # type: ignore[attr-defined]
    assert made(frames=3) is True
    assert read_capture(place).notes == ("3 frames",)
    scan.write_text("other")
    assert made(frames=3) is True
    assert left(workspace) == ["hall"]


def test_a_damaged_capture_is_made_again(made: Callable[..., bool], workspace: Path) -> None:
    made()
    photo = workspace / "captures/hall/images/left/im 1.png"
    photo.unlink()
    assert made() is True
    photo.write_bytes(b"")
    assert made() is True
    (workspace / "captures/hall" / FACTS).write_text("{")
    assert made() is True
    assert photo.stat().st_size > 0


def test_a_failure_leaves_the_old_one(
    made: Callable[..., bool], workspace: Path, scan: Path
) -> None:
    made()
    before = (workspace / "captures/hall" / FACTS).read_bytes()
    for word in ("broken", "poor"):
        scan.write_text(word)
        with pytest.raises(CaptureError, match=r"hall\.fake"):
            made()
        assert left(workspace) == ["hall"]
        assert (workspace / "captures/hall" / FACTS).read_bytes() == before


def test_what_is_not_ours_stays(made: Callable[..., bool], workspace: Path) -> None:
    mine = workspace / "captures/hall"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(CaptureError, match=r"captures/hall.*fit3d did not make it"):
        made()
    assert (mine / "thesis.txt").read_text() == "x"


def test_who_comes_second_waits_and_keeps_it(
    made: Callable[..., bool], workspace: Path, scan: Path, tmp_path: Path
) -> None:
    place, notes = workspace / "captures/hall", []
    assert made() is True
    whole = shutil.move(place, tmp_path / "whole")
    with ExitStack() as other:
        other.enter_context(storage.locked(place))

        def watch(event: Progress) -> None:
            if event.stage == "hall: waiting" and not notes:
                notes.append(event.note)
                shutil.move(whole, place)
                other.close()

        assert prepare_source(scan, "fake", place, SourceOptions(), watch) is False
    assert notes == [f"being made by pid {os.getpid()} on {storage.faults.host_name()}"]
    assert made.calls == 1  # type: ignore[attr-defined]


def test_no_room_no_start(
    made: Callable[..., bool], fake: Fake, workspace: Path, scan: Path
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("started")

    fake("fake", never, room=lambda path: 1 << 60)
    with pytest.raises(StorageError, match=r"needs about \d+\.\d GB, .* free"):
        made()
    assert left(workspace) == []


KILLED = """
import sys, time
from pathlib import Path
from fit3d_cli import storage
with storage.temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "images").mkdir()
    (folder / "images" / "half.jpg").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_is_swept(made: Callable[..., bool], workspace: Path) -> None:
    place = workspace / "captures/hall"
    command = [sys.executable, "-c", KILLED, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert Workspace(workspace).sweep() == 0  # it is alive
        process.send_signal(signal.SIGKILL)
    assert not place.exists() and len(left(workspace)) == 1
    assert Workspace(workspace).sweep() == 1
    assert left(workspace) == []
    assert made() is True


def test_a_folder_of_another_machine_is_swept_when_old(tmp_path: Path) -> None:
    folder = tmp_path / ".hall.elsewhere.1.0123abcd.f3dtmp"
    folder.mkdir()
    inside = folder / "images"
    inside.mkdir()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(folder, (long_ago, long_ago))
    assert storage.sweep(tmp_path) == 0  # something in it is younger
    os.utime(inside, (long_ago, long_ago))
    assert storage.sweep(tmp_path) == 1
    assert not folder.exists()


def test_progress_says_what_and_whether_it_was_kept(
    made: Callable[..., bool], workspace: Path, scan: Path
) -> None:
    heard: list[Progress] = []
    for _ in range(2):
        prepare_source(scan, "fake", workspace / "captures/hall", SourceOptions(), heard.append)
    assert heard[0].stage == "hall: a .fake file"
    assert heard[1].note.startswith("becomes ") and heard[-1].note.startswith("kept ")
