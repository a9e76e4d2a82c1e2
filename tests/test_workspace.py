import json
import os
from pathlib import Path

import pytest

from fit3d_cli.errors import CaptureError, SettingsError, StorageError
from fit3d_cli.workspace import Workspace


def test_nothing_is_made_by_asking(workspace: Path) -> None:
    place = Workspace(workspace)
    assert place.scene_paths() == []
    assert place.captures() == {}
    assert place.weights_of("0" * 64) == ""
    with pytest.raises(SettingsError, match="no tuned model"):
        place.newest_model()
    assert not workspace.exists()


def test_scene_paths_are_sorted(workspace: Path) -> None:
    place = Workspace(workspace)
    (workspace / "scenes").mkdir(parents=True)
    for name in ("b", "a"):
        place.scene_path(name).touch()
    (workspace / "scenes" / "notes.txt").touch()
    assert place.scene_paths() == [place.scene_path("a"), place.scene_path("b")]


def test_newest_model_is_the_one_finished_last(workspace: Path) -> None:
    place = Workspace(workspace)
    for age, name in enumerate(("old", "new", "for-transformers", "unfinished")):
        (place.models_dir / name).mkdir(parents=True)
        if name != "for-transformers":
            (place.models_dir / name / "fit3d.json").touch()
        if name != "unfinished":
            config = place.models_dir / name / "config.json"
            config.touch()
            os.utime(config, (1000 + age, 1000 + age))
    assert place.newest_model() == place.models_dir / "new"
    os.utime(place.models_dir / "old" / "config.json", (5000, 5000))
    assert place.newest_model() == place.models_dir / "old"


def test_captures_are_remembered_and_found(workspace: Path, tmp_path: Path) -> None:
    place = Workspace(workspace)
    kitchen, office = tmp_path / "scans" / "kitchen", tmp_path / "office"
    for path in (kitchen, office):
        path.mkdir(parents=True)
    place.remember_capture("kitchen", kitchen)
    place.remember_capture("office", office)
    assert Workspace(workspace).capture_dir("kitchen") == kitchen
    assert list(place.captures()) == ["kitchen", "office"]
    moved = tmp_path / "elsewhere" / "kitchen"
    moved.parent.mkdir()
    kitchen.rename(moved)
    with pytest.raises(CaptureError, match=r"gone.*--captures"):
        place.capture_dir("kitchen")
    with pytest.raises(CaptureError, match=r"no capture is remembered.*--captures"):
        place.capture_dir("attic")
    # --captures is the folder of captures, or the capture itself.
    assert place.capture_dir("kitchen", moved.parent) == moved
    assert place.capture_dir("kitchen", moved) == moved
    place.remember_capture("kitchen", moved)
    assert place.capture_dir("kitchen") == moved


def test_relative_paths_are_remembered_as_absolute(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "room").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    Workspace(workspace).remember_capture("room", Path("room"))
    monkeypatch.chdir("/")
    assert Workspace(workspace).capture_dir("room") == tmp_path / "here" / "room"


def test_backbones_are_a_file_a_directory_or_the_default(workspace: Path, tmp_path: Path) -> None:
    place = Workspace(workspace)
    weights, model = tmp_path / "w.safetensors", tmp_path / "model"
    weights.touch()
    model.mkdir()
    place.remember_backbone("f" * 64, str(weights))
    place.remember_backbone("d" * 64, str(model))
    place.remember_backbone("0" * 64, "")
    assert place.weights_of("f" * 64) == str(weights)
    assert place.backbone_of("f" * 64, "dinov2-small") == ("dinov2-small", str(weights))
    # A model directory brings its own architecture: it stands in for the name.
    assert place.backbone_of("d" * 64, "model") == (str(model), "")
    assert place.weights_of("d" * 64) == ""
    assert place.backbone_of("0" * 64, "mae-base") == ("mae-base", "")
    assert place.backbone_of("1" * 64, "mae-base") == ("mae-base", "")


def test_remembering_again_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    place = Workspace(workspace)
    place.remember_capture("room", tmp_path)
    table = workspace / "captures.json"
    os.utime(table, (1000, 1000))
    place.remember_capture("room", tmp_path)
    assert table.stat().st_mtime == 1000
    place.remember_capture("room", tmp_path / "other")
    assert table.stat().st_mtime > 1000


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3", b"\xff\xfe"])
def test_damaged_memory_is_a_clear_error(workspace: Path, text: str | bytes) -> None:
    workspace.mkdir()
    data = text if isinstance(text, bytes) else text.encode()
    (workspace / "captures.json").write_bytes(data)
    with pytest.raises(SettingsError, match=r"captures\.json: damaged - delete it"):
        Workspace(workspace).captures()


def test_memory_that_cannot_be_read_is_a_clear_error(workspace: Path) -> None:
    (workspace / "captures.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"captures\.json: cannot be read: is a directory - "):
        Workspace(workspace).remember_capture("room", workspace)


def test_a_lock_that_a_killed_run_left_goes(workspace: Path) -> None:
    place = Workspace(workspace)
    (workspace / "scenes").mkdir(parents=True)
    for name in ("scenes/a.f3d.lock", "captures.json.lock", "poetry.lock"):
        (workspace / name).write_text("" if name[0] in "sp" else "pid 4000000 on host\n")
    assert place.sweep() == 2
    assert [path.name for path in workspace.iterdir() if path.is_file()] == ["poetry.lock"]


def test_memory_is_plain_json(workspace: Path, tmp_path: Path) -> None:
    Workspace(workspace).remember_capture("room", tmp_path)
    stored = json.loads((workspace / "captures.json").read_text())
    assert stored == {"room": str(tmp_path)}
