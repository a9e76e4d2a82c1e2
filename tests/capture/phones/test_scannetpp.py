from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.base import Distortion
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture

CAMERAS = "nerfstudio/transforms.json"


def test_dslr(phones, tmp_path: Path) -> None:
    phones.dslr(tmp_path / "dslr")
    capture = read_capture(tmp_path / "dslr")
    # One bad frame among the training frames, one among the test frames.
    assert dict(capture.dropped) == {"marked as bad": 2}
    assert capture.notes == ()
    assert capture.views[0].distortion == Distortion("fisheye", phones.fisheye)
    frame = load_frame(capture.views[2], phones.width, phones.height)
    plain = load_frame(
        type(capture.views[2])(**{**vars(capture.views[2]), "distortion": None}),
        phones.width, phones.height,
    )  # fmt: skip
    assert plain.mask[5].tolist() == [x >= 6 for x in range(phones.width)]
    assert not torch.equal(frame.image, plain.image)


def test_a_point_falls_where_nerfstudio_says(phones, tmp_path: Path) -> None:
    phones.dslr(tmp_path / "dslr")
    top = json.loads((tmp_path / "dslr" / CAMERAS).read_text())
    frames = {frame["file_path"]: frame for frame in top["frames"] + top["test_frames"]}
    for view in read_capture(tmp_path / "dslr").views:
        c2w = np.array(frames[view.image_path.name]["transform_matrix"])
        x, y, z, _ = np.linalg.inv(c2w) @ [*phones.point, 1.0]
        a, b = x / -z, -y / -z  # OpenGL: y up, looking along -z
        radius = np.hypot(a, b)
        theta = np.arctan(radius)  # Kannala and Brandt
        k1, k2, k3, k4 = phones.fisheye
        bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
        expected = [top["cx"] + top["fl_x"] * a * bent / radius,
                    top["cy"] + top["fl_y"] * b * bent / radius]  # fmt: skip
        assert phones.pixel(view) == pytest.approx(expected, abs=1e-6)


def test_points_of_the_scan_come_along(phones, tmp_path: Path, monkeypatch: Any) -> None:
    phones.dslr(tmp_path / "dslr")
    points = read_capture(tmp_path / "dslr").points
    assert points is not None
    assert points.xyz.tolist() == [[-1, 0.5, -2], [2, 1, -3]]
    images = tmp_path / "dslr/colmap/images.txt"
    text = images.read_text()
    # Another frame than expected: its points would lie somewhere else.
    images.write_text("\n".join(
        " ".join([*words[:5], "9", *words[6:]]) if len(words := line.split()) > 9 else line
        for line in text.splitlines()))  # fmt: skip
    capture = read_capture(tmp_path / "dslr")
    assert capture.points is None
    assert capture.notes == ("points of colmap left out: its cameras are not those of nerfstudio",)
    images.write_text(text.replace("DSC", "IMG"))
    assert "has none of the photos" in read_capture(tmp_path / "dslr").notes[0]
    with monkeypatch.context() as patch:
        patch.setattr("fit3d_cli.capture.scannetpp.MAX_TEXT_BYTES", 10)
        assert "images.txt is too large" in read_capture(tmp_path / "dslr").notes[0]
    images.unlink()
    assert read_capture(tmp_path / "dslr").notes == ()


@pytest.mark.parametrize(
    "names",
    [("resized_undistorted_images", "resized_undistorted_masks"),
     ("undistorted_images", "undistorted_anon_masks")],
)  # fmt: skip
def test_undistorted_photos_come_first(phones, tmp_path: Path, names: tuple[str, str]) -> None:
    phones.dslr(tmp_path / "dslr")
    phones.undistorted(tmp_path / "dslr", *names)
    capture = read_capture(tmp_path / "dslr")
    assert capture.views[0].name == f"{names[0]}/DSC01752.JPG"
    assert capture.views[0].distortion is None
    assert float(capture.views[0].K[0, 0]) == 40
    assert capture.views[0].mask_path == tmp_path / "dslr" / names[1] / "DSC01752.png"
    assert capture.points is not None
    assert capture.notes == (f"undistorted photos taken ({names[0]}), not the fisheye's",)
    shutil.rmtree(tmp_path / "dslr/resized_images")
    assert read_capture(tmp_path / "dslr").notes == ()


def test_depth_of_the_toolbox(phones, tmp_path: Path) -> None:
    root = tmp_path / "dslr"
    phones.dslr(root)
    phones.undistorted(root, "resized_undistorted_images", "resized_undistorted_masks")
    for i in range(1, phones.count):
        full = np.kron(phones.depth_map(i), np.ones((2, 2), np.uint16))
        phones.trees.save(root / f"render_depth/DSC0{1752 + i}.png", full)
    capture = read_capture(root)
    assert capture.notes == ("the fisheye's photos taken, which render_depth belongs to",)
    assert capture.views[0].depth_path is None
    view = capture.views[2]
    assert view.name == "resized_images/DSC01754.JPG" and view.depth_camera is None
    depth = load_frame(view, phones.width, phones.height).depth
    assert depth is not None
    # On the axis the lens does not bend. Near the left border the angle of 30.5 degrees, whose
    # tangent is 0.59, is seen 27 pixels from the axis, not 29.5: in the third column of depth.
    stored = phones.depth_map(2) / 1000
    assert float(depth[24, 30]) == pytest.approx(stored[12, 15])
    assert float(depth[24, 1]) == pytest.approx(stored[12, 2])
    shutil.rmtree(root / "resized_undistorted_images")
    assert read_capture(root).notes == ()


def test_hidden_test_photos(phones, tmp_path: Path, told: Callable[..., None]) -> None:
    phones.dslr(tmp_path / "dslr")
    (tmp_path / "dslr/resized_images/DSC01753.JPG").unlink()
    told(tmp_path / "dslr", "DSC01753.JPG", "1 of 10 files are missing")
    (tmp_path / "dslr/resized_images/DSC01758.JPG").unlink()
    capture = read_capture(tmp_path / "dslr")
    assert dict(capture.dropped) == {"marked as bad": 1, "test photo not published": 2}
    assert len(capture.views) == phones.count - 1


def test_without_masks_and_test_frames(phones, tmp_path: Path, edit: Callable[..., None]) -> None:
    phones.dslr(tmp_path / "dslr")
    shutil.rmtree(tmp_path / "dslr/resized_anon_masks")
    edit(tmp_path / "dslr" / CAMERAS, lambda d: d.pop("test_frames"))
    capture = read_capture(tmp_path / "dslr")
    assert capture.notes == ("no resized_anon_masks: nothing is masked",)
    assert all(view.mask_path is None for view in capture.views)
    assert len(capture.views) == phones.count - 1


def test_the_scene_names_its_other_camera(phones, tmp_path: Path) -> None:
    phones.scannetpp(tmp_path / "scene")
    capture = read_capture(tmp_path / "scene")
    assert capture.views[0].name == "dslr/resized_images/DSC01752.JPG"
    assert capture.notes == (f"dslr taken; for the phone's video name {tmp_path}/scene/iphone",)
    shutil.rmtree(tmp_path / "scene/dslr")
    capture = read_capture(tmp_path / "scene")
    assert capture.views[0].name == "iphone/rgb/frame_000000.jpg"
    assert capture.notes[0] == "no colmap: ARKit's poses taken, which are less exact"


def test_iphone_refined_poses(phones, tmp_path: Path) -> None:
    phones.iphone(tmp_path / "iphone")
    phones.trees.save(tmp_path / "iphone/rgb_masks/frame_000010.png", np.zeros((48, 64), np.uint8))
    names = [f"iphone/frame_{10 * i:06}.jpg" for i in range(3)]
    lens = f"OPENCV 1920 1440 {50 * 30} {51 * 30} {31 * 30} {25 * 30} 0.05 -0.02 0.001 0.002"
    phones.colmap(tmp_path / "iphone/colmap", names, lens)
    capture = read_capture(tmp_path / "iphone")
    assert [v.name for v in capture.views] == [f"rgb/frame_{10 * i:06}.jpg" for i in range(3)]
    assert dict(capture.dropped) == {"no pose": 2}
    view = capture.views[1]
    assert view.distortion == Distortion("opencv", (0.05, -0.02, 0.001, 0.002, 0, 0, 0, 0))
    torch.testing.assert_close(view.K, phones.K)
    torch.testing.assert_close(view.viewmat, phones.viewmats[1], atol=1e-9, rtol=0)
    # Depth lies on the photo's distorted pixels and is warped with them.
    assert view.depth_camera is None and view.depth_path is not None
    assert view.mask_path is not None and capture.views[0].mask_path is None
    assert not load_frame(view, 32, 24).mask.any()
    assert capture.points is not None
    assert capture.points.xyz.tolist() == [[0.5, -1, 2], [1, 2, 3]]
    # It is enough for a folder of that name.
    (tmp_path / "iphone/pose_intrinsic_imu.json").unlink()
    assert read_capture(tmp_path / "iphone").reader == "scannetpp"


def test_iphone_frames_without_an_aligned_pose(
    phones, tmp_path: Path, edit: Callable[..., None]
) -> None:
    phones.iphone(tmp_path / "iphone")
    edit(
        tmp_path / "iphone/pose_intrinsic_imu.json",
        lambda d: (d.pop("frame_000000"), d["frame_000040"].pop("aligned_pose")),
    )
    capture = read_capture(tmp_path / "iphone")
    assert dict(capture.dropped) == {"no pose": 2}
    assert len(capture.views) == 3


def test_iphone_that_is_not_unpacked(phones, tmp_path: Path, told: Callable[..., None]) -> None:
    phones.iphone(tmp_path / "iphone")
    shutil.rmtree(tmp_path / "iphone/depth")
    (tmp_path / "iphone/depth.bin").write_bytes(b"x")
    notes = read_capture(tmp_path / "iphone").notes
    assert "depth.bin is not unpacked; in the ScanNet++ toolbox run: python -m iphone.p" in notes[0]
    shutil.rmtree(tmp_path / "iphone/rgb")
    told(tmp_path / "iphone", "iphone", "no rgb/*.jpg - download its iphone_video_path, then")
    (tmp_path / "iphone/rgb.mp4").write_bytes(b"x")
    told(tmp_path / "iphone", "iphone", "rgb.mp4 is not unpacked - in the ScanNet++ toolbox run: "
         "python -m iphone.prepare_iphone_data iphone/configs/prepare_iphone_data.yml")  # fmt: skip


DSLR: dict[str, tuple[Callable[[dict[str, Any]], object], str, str]] = {
    "no frames": (lambda d: d.pop("frames"), CAMERAS, "frames: expected a list, found nothing"),
    "frame a text": (lambda d: d["frames"].append("x"), CAMERAS, "frames[5]: expected an object"),
    "no file": (lambda d: d["frames"][1].pop("file_path"), CAMERAS, "frames[1].file_path: expect"),
    "tests a text": (lambda d: d.update(test_frames="x"), CAMERAS, "test_frames: expected a list"),
    "bad a number": (
        lambda d: d["frames"][1].update(is_bad=1), CAMERAS, "frames[1].is_bad: expected true or"),
    "no model": (lambda d: d.pop("camera_model"), CAMERAS, "camera_model: expected a text"),
    "another model": (
        lambda d: d.update(camera_model="OPENCV"), CAMERAS,
        "camera_model: expected OPENCV_FISHEYE or PINHOLE, found OPENCV"),
    "no lens": (lambda d: d.pop("k3"), CAMERAS, "k3: expected a number, found nothing"),
    "no focal length": (lambda d: d.pop("fl_y"), CAMERAS, "fl_y: expected a number"),
    "focal length zero": (lambda d: d.update(fl_y=0), "DSC01752.JPG", "not positive"),
    "huge": (lambda d: d.update(cx=10**400), CAMERAS, "cx: expected a finite number"),
    "half a pixel": (lambda d: d.update(w=64.5), CAMERAS, "w: expected a positive whole number"),
    "another size": (lambda d: d.update(w=48, h=64), "DSC01752.JPG", "do not match"),
    "pose short": (
        lambda d: d["frames"][0].update(transform_matrix=[[1, 0, 0]] * 4), CAMERAS,
        "frames[0].transform_matrix: expected a 4x4"),
    "no pose": (
        lambda d: d["frames"][0].pop("transform_matrix"), CAMERAS, "expected a 4x4 matrix"),
    "twice": (
        lambda d: d["test_frames"].append(d["frames"][0]), "DSC01752.JPG", "more than once"),
    "absolute": (
        lambda d: d["frames"][0].update(file_path="/etc/passwd"), CAMERAS, "absolute path"),
    "all bad": (
        lambda d: [f.update(is_bad=True) for f in d["frames"] + d["test_frames"]], "/dslr",
        "0 usable views (7 x marked as bad)"),
}  # fmt: skip


@pytest.mark.parametrize("case", DSLR)
def test_damaged_dslr(
    phones, tmp_path: Path, case: str, told: Callable[..., None], edit: Callable[..., None]
) -> None:
    phones.dslr(tmp_path / "dslr")
    damage, name, words = DSLR[case]
    edit(tmp_path / "dslr" / CAMERAS, damage)
    told(tmp_path / "dslr", name, words)


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "not JSON": (lambda r: (r / CAMERAS).write_text("{"), CAMERAS, "not JSON"),
    "NaN": (lambda r: (r / CAMERAS).write_text('{"w": NaN}'), CAMERAS, "NaN is not JSON"),
    "no photos": (
        lambda r: shutil.rmtree(r / "resized_images"), "/dslr", "dslr_resized_dir"),
    "photo missing": (
        lambda r: (r / "resized_images/DSC01754.JPG").unlink(), "DSC01754.JPG",
        "1 of 10 files are missing"),
    "mask missing": (
        lambda r: (r / "resized_anon_masks/DSC01754.png").unlink(), "DSC01754.png", "missing"),
    "mask of another shape": (
        lambda r: Image.new("L", (48, 64)).save(r / "resized_anon_masks/DSC01754.png"),
        "DSC01754.png", "48x64"),
    "photo cut": (
        lambda r: (r / "resized_images/DSC01754.JPG").write_bytes(b"\xff\xd8\xff"),
        "DSC01754.JPG", ""),
    "colmap damaged": (
        lambda r: (r / "colmap/images.txt").write_text("1 2 3\n"), "images.txt", "'1 2 3'"),
    "points damaged": (
        lambda r: (r / "colmap/points3D.txt").write_text("1 2 3\n"), "points3D.txt", "'1 2 3'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_damaged_file(phones, tmp_path: Path, case: str, told: Callable[..., None]) -> None:
    phones.dslr(tmp_path / "dslr")
    damage, name, words = FILES[case]
    damage(tmp_path / "dslr")
    told(tmp_path / "dslr", name, words)


ENTRY = "frame_000020"
PHONE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "entry a list": (lambda d: d.update({ENTRY: []}), f"{ENTRY}: expected an object"),
    "no intrinsic": (lambda d: d[ENTRY].pop("intrinsic"), f"{ENTRY}.intrinsic: expected a 3x3"),
    "intrinsic short": (
        lambda d: d[ENTRY].update(intrinsic=[[1, 0], [0, 1], [0, 0]]), "expected a 3x3 matrix"),
    "intrinsic text": (
        lambda d: d[ENTRY].update(intrinsic=[["a", 0, 1]] * 3), f"{ENTRY}.intrinsic[0].0: expec"),
    "pose short": (
        lambda d: d[ENTRY].update(aligned_pose=[1, 2]), f"{ENTRY}.aligned_pose: expected a 4x4"),
    "pose huge": (
        lambda d: d[ENTRY]["aligned_pose"][0].__setitem__(3, 10**400), "expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("case", PHONE)
def test_damaged_phone(
    phones, tmp_path: Path, case: str, told: Callable[..., None], edit: Callable[..., None]
) -> None:
    phones.iphone(tmp_path / "iphone")
    damage, words = PHONE[case]
    edit(tmp_path / "iphone/pose_intrinsic_imu.json", damage)
    told(tmp_path / "iphone", "pose_intrinsic_imu.json", words)


def test_phone_model_with_a_camera_missing(
    phones, tmp_path: Path, told: Callable[..., None]
) -> None:
    phones.iphone(tmp_path / "iphone")
    phones.colmap(
        tmp_path / "iphone/colmap", ["frame_000000.jpg", "frame_000099.jpg"],
        "PINHOLE 1920 1440 1500 1530 930 750",
    )  # fmt: skip
    told(tmp_path / "iphone", "rgb/frame_000099.jpg", "1 of 3 files are missing")
    (tmp_path / "iphone/colmap/cameras.txt").write_text("2 PINHOLE 4 4 1 1 1 1\n")
    told(tmp_path / "iphone", "images.txt", "camera 1, which is not in the cameras file")
