"""``fit3d lift`` of captures that are wrong, in every layout: one line, exit 2, no trace."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d_cli import app

Damage = Callable[[Path], object]
ROOTS = {
    "rgbd": "rooms/room-0",
    "transforms": "layouts/transforms",
    "cameras-json": "layouts/cameras-json",
    "colmap-txt": "layouts/colmap-txt",
    "colmap-bin": "layouts/colmap-bin",
}
PHOTOS = {layout: "images/shot-2.png" for layout in ROOTS} | {"rgbd": "frame-000002.color.png"}
LISTS = {"transforms": "transforms.json", "cameras-json": "cameras.json"}
POSES = {"transforms": "transform_matrix", "cameras-json": "c2w_opencv"}


def nothing(root: Path) -> None:
    """The command line is wrong, not the files."""


def photo(root: Path, layout: str) -> Path:
    return root / PHOTOS[layout]


def missing_photo(root: Path, layout: str) -> str:
    photo(root, layout).unlink()
    return photo(root, layout).name


def no_photos(root: Path, layout: str) -> str:
    for file in photo(root, layout).parent.glob("*.png"):
        if ".depth" not in file.name:
            file.unlink()
    return "shot-0.png" if layout != "rgbd" else "frame-000000.color"


def other_size(root: Path, layout: str) -> str:
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(photo(root, layout))
    return photo(root, layout).name


def truncated_photo(root: Path, layout: str) -> str:
    data = photo(root, layout).read_bytes()
    photo(root, layout).write_bytes(data[: len(data) * 2 // 3])
    return photo(root, layout).name


def not_a_photo(root: Path, layout: str) -> str:
    photo(root, layout).write_text("hello")
    return photo(root, layout).name


def animated_photo(root: Path, layout: str) -> str:
    shots = [Image.fromarray(np.full((32, 48, 3), v, np.uint8)) for v in (0, 99)]
    shots[0].save(photo(root, layout), "PNG", save_all=True, append_images=shots[1:])
    return photo(root, layout).name


def spoil_poses(root: Path, layout: str, which: list[int]) -> str:
    """NaN in the poses of the given views; names what the message must name."""
    if layout == "rgbd":
        for i in which:
            (root / f"frame-{i:06d}.pose.txt").write_text("nan " * 16)
        return root.name
    if layout in LISTS:
        path = root / LISTS[layout]
        data = json.loads(path.read_text())
        for i in which:
            data["frames"][i][POSES[layout]][0][3] = float("nan")
        path.write_text(json.dumps(data))
        return path.name
    if layout == "colmap-txt":
        path = root / "sparse/0/images.txt"
        lines = path.read_text().split("\n")
        for i in which:
            words = lines[2 * i].split()
            lines[2 * i] = " ".join([*words[:5], "nan", *words[6:]])
        path.write_text("\n".join(lines))
        return root.name
    path = root / "sparse/0/images.bin"
    data = bytearray(path.read_bytes())
    record = (len(data) - 8) // 5
    for i in which:
        struct.pack_into("<d", data, 8 + i * record + 4 + 32, float("nan"))
    path.write_bytes(bytes(data))
    return root.name


def all_poses_nan(root: Path, layout: str) -> str:
    return spoil_poses(root, layout, [0, 1, 2, 3, 4])


def empty(root: Path, layout: str) -> str:
    """The layout is there, and holds no view."""
    if layout == "rgbd":
        for file in root.glob("*.pose.txt"):
            file.unlink()
        return root.name
    if layout in LISTS:
        path = root / LISTS[layout]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frames": []}))
        return root.name
    path = root / ("sparse/0/images.txt" if layout == "colmap-txt" else "sparse/0/images.bin")
    path.write_bytes(b"# none\n" if path.suffix == ".txt" else struct.pack("<Q", 0))
    return path.name


def cut_list(root: Path, layout: str) -> str:
    """The file that lists the views ends too early."""
    path = {
        "rgbd": root / "frame-000002.pose.txt",
        "colmap-txt": root / "sparse/0/cameras.txt",
        "colmap-bin": root / "sparse/0/images.bin",
    }.get(layout) or root / LISTS[layout]
    path.write_bytes(path.read_bytes()[:20])
    return path.name


def lost_list(root: Path, layout: str) -> str:
    path = {
        "rgbd": root / "intrinsics.txt",
        "colmap-txt": root / "sparse/0/cameras.txt",
        "colmap-bin": root / "sparse/0/cameras.bin",
    }.get(layout) or root / LISTS[layout]
    path.unlink()
    return path.name if layout == "rgbd" else root.name


DAMAGES = (missing_photo, no_photos, other_size, truncated_photo, not_a_photo, animated_photo,
           all_poses_nan, empty, cut_list, lost_list)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", ROOTS)
def test_damaged_capture(refused, capture_only, layout: str, damage) -> None:
    root = capture_only(ROOTS[layout])
    culprit = damage(root, layout)
    refused(["lift", str(root), "--backbone", "tiny"], 2, culprit)


@pytest.mark.parametrize("layout", ["rgbd", "colmap-txt", "colmap-bin"])
def test_views_without_a_pose_are_left_out_and_counted(capture_only, layout, capsys) -> None:
    spoil_poses(capture_only(ROOTS[layout]), layout, [3])
    argv = ["lift", ROOTS[layout], "--backbone", "tiny", "--profile", "small.toml", "-q", "--json"]
    assert app.run([*argv, "--workspace", "new"]) == 0
    name = Path(ROOTS[layout]).name
    capsys.readouterr()
    assert app.run(["info", f"new/scenes/{name}.f3d", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["views"] == 4
    assert facts["provenance"]["dropped"] == {"non-finite pose": 1}


@pytest.mark.parametrize("layout", ["transforms", "cameras-json"])
def test_json_has_no_nan(refused, capture_only, layout: str) -> None:
    culprit = spoil_poses(capture_only(ROOTS[layout]), layout, [3])
    refused(["lift", ROOTS[layout], "--backbone", "tiny"], 2, culprit, "NaN")


def test_principal_point_in_another_unit(refused, capture_only) -> None:
    """What no archive could hold is refused before it is fitted."""
    path = capture_only(ROOTS["transforms"]) / "transforms.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cx": 24_000}))
    refused(
        ["lift", str(path.parent), "--backbone", "tiny"], 2, "transforms", "impossible intrinsics"
    )


def test_photos_beside_the_capture(capture_only, capsys) -> None:
    """Their names do not lead out of the folders that are named after them."""
    root = capture_only(ROOTS["transforms"])
    data = json.loads((root / "transforms.json").read_text())
    for frame in data["frames"]:
        frame["file_path"] = f"../{frame['file_path']}"
    (root / "poses").mkdir()
    (root / "poses/transforms.json").write_text(json.dumps(data))
    argv = ["--profile", "small.toml", "--workspace", "new", "-q", "--json"]
    assert app.run(["lift", str(root / "poses"), "--backbone", "tiny", *argv]) == 0
    assert app.run(["render", "new/scenes/poses.f3d", "--what", "rgb", *argv]) == 0
    assert {path.suffix for path in Path("new/renders/poses").iterdir()} == {".png"}


NO_CAPTURE: dict[str, tuple[Damage, str, str]] = {
    "missing": (nothing, "gone", "no such file or directory"),
    "file": (lambda r: (r / "file").touch(), "file", "neither a capture"),
    "empty folder": (lambda r: (r / "void").mkdir(), "void", "neither a"),
    "folder of nothing": (lambda r: (r / "void/a/b").mkdir(parents=True), "void", "neither a"),
    "photos without poses": (
        lambda r: shutil.copytree(r / "layouts/transforms/images", r / "shots"), "shots", "a pose"),
    "unreadable by the named reader": (
        nothing, "rooms/room-0 --set lift.reader=colmap", "not laid out like colmap"),
    "unknown reader": (
        nothing, "rooms/room-0 --set lift.reader=colmat", "did you mean colmap"),
    "two layouts at once": (
        lambda r: shutil.copy(r / "layouts/transforms/transforms.json", r / "rooms/room-0"),
        "rooms/room-0", "choose with --set lift.reader="),
    "one view": (nothing, "rooms/room-0 --set lift.max_views=1", "one view"),
    "same name twice": (
        lambda r: shutil.copytree(r / "rooms/room-0", r / "more/room-0"), "rooms more", "room-0"),
    "depth asked, none there": (
        nothing, "layouts/transforms --set lift.init=depth", "no depth maps"),
    "points asked, none there": (
        nothing, "rooms/room-0 --set lift.init=points", "no sparse points"),
    "ply not named": (nothing, "rooms/room-0 --set lift.init=ply", "lift.geometry.ply"),
    "ply missing": (
        nothing, "rooms/room-0 --set lift.init=ply --set lift.ply=a.ply", "no such file"),
    "ply not read": (
        nothing, "rooms/room-0 --set lift.ply=small.toml", "lift.geometry.init=ply"),
    "ply is something else": (
        nothing, "rooms/room-0 --set lift.init=ply --set lift.ply=small.toml", "not a file of"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_CAPTURE)
def test_no_capture(refused, request, case: str) -> None:
    prepare, words, says = NO_CAPTURE[case]
    prepare(request.getfixturevalue("untouched" if prepare is nothing else "world"))
    refused(["lift", *words.split(), "--backbone", "tiny"], 2, "", says)


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
