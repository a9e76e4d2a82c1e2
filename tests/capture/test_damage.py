"""Every damage is told with the file's name and a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.errors import CaptureError, ImageError


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def _picture(path: Path, width: int, height: int, **options: Any) -> None:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, **options)


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _picture(path, 32, 48, exif=exif)


def _double_rgbd(root: Path) -> None:
    source = root / "frame-000005.color.jpg"
    Image.open(source).save(root / "frame-000005.color.png")


COLMAP_IMAGE = "images/left/im 2.png"
MODEL = "sparse/0"
# layout, what is done to the tree, the name that the message must hold, words of the message
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "rgbd: photo missing": (
        "rgbd", lambda r: (r / "frame-000010.color.jpg").unlink(), "frame-000010.color.jpg",
        "1 of 9 files are missing"),
    "rgbd: intrinsics missing": (
        "rgbd", lambda r: (r / "intrinsics.txt").unlink(), "intrinsics.txt", "no such file"),
    "rgbd: intrinsics short": (
        "rgbd", lambda r: (r / "intrinsics.txt").write_text("1 2 3"), "intrinsics.txt", "3x3"),
    "rgbd: intrinsics skewed": (
        "rgbd", lambda r: (r / "intrinsics.txt").write_text("9 3 1 0 9 1 0 0 1"),
        "intrinsics.txt", "not a pinhole"),
    "rgbd: intrinsics NaN": (
        "rgbd", lambda r: (r / "intrinsics.txt").write_text("nan 0 1 0 9 1 0 0 1"),
        "intrinsics.txt", "pinhole"),
    "rgbd: focal zero": (
        "rgbd", lambda r: (r / "intrinsics.txt").write_text("0 0 1 0 9 1 0 0 1"),
        "frame-000000.color.jpg", "not positive"),
    "rgbd: pose words": (
        "rgbd", lambda r: (r / "frame-000005.pose.txt").write_text("x " * 16),
        "frame-000005.pose.txt", "no number"),
    "rgbd: pose short": (
        "rgbd", lambda r: _cut(r / "frame-000005.pose.txt", 20), "frame-000005.pose.txt", "4x4"),
    "rgbd: all poses NaN": (
        "rgbd", lambda r: [p.write_text("nan " * 16) for p in r.glob("*.pose.txt")], "scene",
        "0 usable views (5 x non-finite pose)"),
    "rgbd: one view left": (
        "rgbd", lambda r: [p.unlink() for p in sorted(r.glob("*.pose.txt"))[1:]], "scene",
        "1 usable views"),
    "rgbd: photo truncated": (
        "rgbd", lambda r: _cut(r / "frame-000010.color.jpg", 900), "frame-000010.color.jpg",
        "truncated"),
    "rgbd: photo empty": (
        "rgbd", lambda r: _cut(r / "frame-000010.color.jpg", 0), "frame-000010.color.jpg",
        "not a JPEG"),
    "rgbd: photo is text": (
        "rgbd", lambda r: (r / "frame-000010.color.jpg").write_text("hello"),
        "frame-000010.color.jpg", "not a JPEG"),
    "rgbd: depth of other aspect": (
        "rgbd", lambda r: Image.new("I;16", (32, 48)).save(r / "frame-000010.depth.png"),
        "frame-000010.depth.png", "32x48"),
    "rgbd: depth in 8 bit": (
        "rgbd", lambda r: Image.new("L", (48, 32)).save(r / "frame-000010.depth.png"),
        "frame-000010.depth.png", "16-bit"),
    "rgbd: depth truncated": (
        "rgbd", lambda r: _cut(r / "frame-000010.depth.png", 70), "frame-000010.depth.png", ""),
    "rgbd: frame in two formats": ("rgbd", _double_rgbd, "frame-000005.color.png", "same frame"),
    "transforms: not JSON": (
        "transforms", lambda r: _cut(r / "transforms.json", 300), "transforms.json",
        "not JSON (line 1"),
    "transforms: NaN": (
        "transforms", lambda r: _replace(r / "transforms.json", '"cx": 23.5', '"cx": NaN'),
        "transforms.json", "NaN is not JSON"),
    "transforms: huge number": (
        "transforms", lambda r: _replace(r / "transforms.json", '"cx": 23.5', '"cx": 1e999'),
        "transforms.json", "cx: expected a finite number"),
    "transforms: deep nesting": (
        "transforms", lambda r: (r / "transforms.json").write_text("[" * 200_000),
        "transforms.json", "not sensible JSON"),
    "transforms: a list": (
        "transforms", lambda r: (r / "transforms.json").write_text("[]"), "transforms.json",
        "expected an object"),
    "transforms: text for number": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.update(fl_x="40")),
        "transforms.json", "fl_x: expected a number, found a text"),
    "transforms: true for number": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.update(fl_x=True)),
        "transforms.json", "fl_x: expected a number, found true/false"),
    "transforms: half a pixel": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.update(w=48.5)),
        "transforms.json", "w: expected a positive whole number"),
    "transforms: no intrinsics": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.pop("fl_x")),
        "transforms.json", "neither fl_x nor camera_angle_x"),
    "transforms: angle in degrees": (
        "transforms",
        lambda r: _edit(r / "transforms.json", lambda d: (d.pop("fl_x"),
                                                          d.update(camera_angle_x=50))),
        "transforms.json", "radians"),
    "transforms: no frames": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.pop("frames")),
        "transforms.json", "frames: expected a list, found nothing"),
    "transforms: empty frames": (
        "transforms", lambda r: _edit(r / "transforms.json", lambda d: d.update(frames=[])),
        "scene", "0 usable views"),
    "transforms: pose of three columns": (
        "transforms",
        lambda r: _edit(r / "transforms.json", lambda d: d["frames"][2].update(
            transform_matrix=[[1, 0, 0]] * 4)),
        "transforms.json", "frames[2].transform_matrix: expected a 4x4"),
    "transforms: camera model": (
        "transforms",
        lambda r: _edit(r / "transforms.json", lambda d: d.update(camera_model="EQUIRECTANGULAR")),
        "transforms.json", "EQUIRECTANGULAR is not supported"),
    "transforms: photo twice": (
        "transforms",
        lambda r: _edit(r / "transforms.json", lambda d: d["frames"].append(d["frames"][0])),
        "é 0.view.png", "more than once"),
    "transforms: photos missing": (
        "transforms", lambda r: shutil.rmtree(r / "images"), "images/é 2.view.png",
        "5 of 15 files are missing: images/é 0.view.png, images/é 1.view.png"),
    "transforms: mask missing": (
        "transforms", lambda r: (r / "masks/3.png").unlink(), "masks/3.png", "missing"),
    "transforms: points missing": (
        "transforms", lambda r: (r / "points.ply").unlink(), "points.ply", "no such file"),
    "transforms: points cut": (
        "transforms", lambda r: _cut(r / "points.ply", -20), "points.ply", "fewer than the 2"),
    "transforms: points are text": (
        "transforms", lambda r: (r / "points.ply").write_text("x"), "points.ply", "not a PLY"),
    "transforms: absolute path": (
        "transforms",
        lambda r: _edit(r / "transforms.json",
                        lambda d: d["frames"][0].update(file_path="/nowhere/a.png")),
        "transforms.json", "absolute path"),
    "transforms: photo is a folder": (
        "transforms",
        lambda r: _edit(r / "transforms.json", lambda d: d["frames"][0].update(file_path=".")),
        "transforms.json", "no file name"),
    "cameras-json: frame is a number": (
        "cameras-json", lambda r: _edit(r / "cameras.json", lambda d: d.update(frames=[1])),
        "cameras.json", "frames[0]: expected an object"),
    "cameras-json: file name missing": (
        "cameras-json", lambda r: _edit(r / "cameras.json", lambda d: d["frames"][1].pop("file")),
        "cameras.json", "frames[1].file: expected a text"),
    "cameras-json: wrong size": (
        "cameras-json", lambda r: _picture(r / "images/v 3.png", 40, 32), "v 3.png",
        "photo 40x32, camera 48x32 do not match"),
    "cameras-json: turned by EXIF": (
        "cameras-json", lambda r: _turned(r / "images/v 3.png"), "v 3.png", "EXIF orientation 6"),
    "cameras-json: CMYK": (
        "cameras-json",
        lambda r: Image.new("CMYK", (48, 32)).save(r / "images/v 3.png", format="JPEG"),
        "v 3.png", "CMYK"),
    "cameras-json: lens": (
        "cameras-json",
        lambda r: _edit(r / "cameras.json",
                        lambda d: d.update(distortion={"model": "fov", "params": [1]})),
        "cameras.json", "distortion.model: unknown model 'fov'"),
    "cameras-json: depth scale": (
        "cameras-json", lambda r: _edit(r / "cameras.json", lambda d: d.update(depth_scale=0)),
        "v 0.png", "depth scale"),
    "colmap: photo missing": (
        "colmap", lambda r: (r / COLMAP_IMAGE).unlink(), COLMAP_IMAGE, "1 of 5 files"),
    "colmap: no photos at all": (
        "colmap", lambda r: shutil.rmtree(r / "images"), "left/im 4.png", "nowhere"),
    "colmap: camera model": (
        "colmap", lambda r: (r / MODEL / "cameras.txt").write_text("7 FOV 48 32 4 4 2 1 .1\n"),
        "cameras.txt", "run: colmap image_undistorter --image_path"),
    "colmap: camera line": (
        "colmap", lambda r: (r / MODEL / "cameras.txt").write_text("7 PINHOLE 48\n"),
        "cameras.txt", "'7 PINHOLE 48'"),
    "colmap: camera parameters": (
        "colmap", lambda r: (r / MODEL / "cameras.txt").write_text("7 PINHOLE 48 32 1 2\n"),
        "cameras.txt", "not understood"),
    "colmap: camera number": (
        "colmap", lambda r: _replace(r / MODEL / "cameras.txt", "7 OPENCV", "8 OPENCV"),
        "images.txt", "camera 7"),
    "colmap: image line": (
        "colmap", lambda r: (r / MODEL / "images.txt").write_text("1 2 3\n\n"), "images.txt",
        "'1 2 3'"),
    "colmap: no image": (
        "colmap", lambda r: (r / MODEL / "images.txt").write_text("# none\n"), "images.txt",
        "no registered image"),
    "colmap: points line": (
        "colmap", lambda r: (r / MODEL / "points3D.txt").write_text("1 2 3 x\n"), "points3D.txt",
        "not understood"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage(trees, tmp_path: Path, case: str) -> None:
    layout, damage, name, words = DAMAGES[case]
    root = tmp_path / "scene"
    trees.write(layout, root)
    damage(root)
    with pytest.raises((CaptureError, ImageError)) as caught:
        for view in read_capture(root).views:
            load_frame(view, view.width, view.height)
    assert name in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_every_cut_of_a_binary_model_is_told(trees, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 2
    options.num_points3D, options.num_points2D_without_point3D = 2, 1
    options.camera_width, options.camera_height = 48, 32
    model = pycolmap.synthesize_dataset(options)
    folder = tmp_path / "c/sparse/0"
    folder.mkdir(parents=True)
    model.write_binary(folder)
    for image in model.images.values():
        trees.save(tmp_path / "c/images" / image.name, trees.texture(0))
    assert len(read_capture(tmp_path / "c").views) == 4
    for file in sorted(folder.glob("*.bin")):
        whole = file.read_bytes()
        for size in range(0, len(whole), 23):
            file.write_bytes(whole[:size])
            with pytest.raises(CaptureError) as caught:
                read_capture(tmp_path / "c")
            assert file.name in str(caught.value) and caught.value.hint
        file.write_bytes(whole)


def test_all_missing_files_are_counted(trees, tmp_path: Path) -> None:
    trees.write("colmap", tmp_path / "c")
    for i in range(4):
        (tmp_path / f"c/images/left/im {i}.png").unlink()
    with pytest.raises(CaptureError, match=r"4 of 5 .*im 0.*im 1.*im 2\.png, \.\.\."):
        read_capture(tmp_path / "c")
