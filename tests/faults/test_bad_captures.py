"""``fit3d lift`` where some of what it is given is wrong, and the rest is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fit3d_cli import app
from tests.faults.cases_captures import ROOTS, spoil_poses


@pytest.mark.parametrize("layout", ["rgbd", "colmap-txt", "colmap-bin"])
def test_views_without_a_pose_are_left_out_and_counted(world: Path, layout: str, capsys) -> None:
    spoil_poses(world / ROOTS[layout], layout, [3])
    argv = ["lift", ROOTS[layout], "--backbone", "tiny", "--profile", "small.toml", "-q", "--json"]
    assert app.run([*argv, "--workspace", "new"]) == 0
    name = Path(ROOTS[layout]).name
    capsys.readouterr()
    assert app.run(["info", f"new/scenes/{name}.f3d", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["views"] == 4
    assert facts["provenance"]["dropped"] == {"non-finite pose": 1}


def test_photos_beside_the_capture(world: Path, capsys) -> None:
    """Their names do not lead out of the folders that are named after them."""
    root = world / ROOTS["transforms"]
    data = json.loads((root / "transforms.json").read_text())
    for frame in data["frames"]:
        frame["file_path"] = f"../{frame['file_path']}"
    (root / "poses").mkdir()
    (root / "poses/transforms.json").write_text(json.dumps(data))
    argv = ["--profile", "small.toml", "--workspace", "new", "-q", "--json"]
    assert app.run(["lift", str(root / "poses"), "--backbone", "tiny", *argv]) == 0
    assert app.run(["render", "new/scenes/poses.f3d", "--what", "rgb", *argv]) == 0
    assert {path.suffix for path in Path("new/renders/poses").iterdir()} == {".png"}


def test_one_bad_capture_of_two_does_not_stop_the_other(world: Path, capsys) -> None:
    (world / "rooms/room-0/frame-000002.color.png").write_text("hello")
    argv = ["lift", "rooms", "--backbone", "tiny", "--profile", "small.toml", "-q", "--json"]
    assert app.run([*argv, "--workspace", "new"]) == 1
    shown = capsys.readouterr()
    scenes = json.loads(shown.out)["scenes"]
    assert [scene["error"] is None for scene in scenes] == [False, True]
    assert shown.err.count("\n") == 1
    assert "frame-000002.color.png" in shown.err
    assert [path.name for path in (world / "new/scenes").iterdir()] == ["room-1.f3d"]
    assert list(json.loads((world / "new/captures.json").read_text())) == ["room-1"]


def test_only_bad_captures_leave_no_trace(world: Path, capsys) -> None:
    for i in range(2):
        (world / f"rooms/room-{i}/frame-000002.color.png").write_text("hello")
    argv = ["lift", "rooms", "--backbone", "tiny", "--profile", "small.toml", "-q"]
    assert app.run([*argv, "--workspace", "new"]) == 2
    assert capsys.readouterr().err.count("fit3d: error: ") == 2
    assert not (world / "new").exists()
