from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.capture.base import Distortion
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.ply_points import read_ply_points
from fit3d_cli.capture.read import read_capture, view_cameras
from fit3d_cli.errors import CaptureError, UnknownNameError

LAYOUTS = ["rgbd", "transforms", "cameras-json", "colmap"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip(trees, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "a scene.v1 é"
    names = trees.write(layout, root)
    capture = read_capture(root)
    assert capture.name == root.name
    assert capture.reader == layout
    assert [view.name for view in capture.views] == names
    assert dict(capture.dropped) == {}
    cameras = view_cameras(capture)
    torch.testing.assert_close(cameras.viewmats, trees.viewmats(), atol=1e-12, rtol=0)
    assert cameras.sizes.tolist() == [[trees.width, trees.height]] * trees.count
    for i, view in enumerate(capture.views):
        expected = trees.K.clone()
        if layout == "cameras-json" and i == 1:
            expected[0, 0] += 1
        assert torch.equal(view.K, expected)
        frame = load_frame(view, 24, 16)
        assert frame.image.shape == (16, 24, 3)
        assert frame.camera.sizes.tolist() == [[24, 16]]


def test_rgbd_depth(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "r")
    capture = read_capture(tmp_path / "r")
    assert capture.metric
    assert capture.views[1].depth_path is None
    depth = load_frame(capture.views[2], trees.width, trees.height).depth
    assert depth is not None
    assert float(depth[10, 10]) == pytest.approx(1.52)
    assert float(depth[:4].abs().max()) == 0 == float(depth[-1].abs().max())
    assert load_frame(capture.views[1], 24, 16).depth is None
    assert load_frame(capture.views[2], 24, 16, depth=False).depth is None


def test_rgbd_drops_bad_poses_and_mends_loose_ones(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "r")
    pose = torch.linalg.inv(trees.viewmats()[3])
    skewed, loose = pose.clone(), pose.clone()
    skewed[0, 0] += 0.1
    loose[0, 0] += 1e-3
    for index, text in {
        0: " ".join(["-1.#IND"] * 16),
        5: " ".join(["inf"] * 16),
        10: " ".join(map(str, skewed.flatten().tolist())),
        15: " ".join(map(str, loose.flatten().tolist())),
    }.items():
        (tmp_path / f"r/frame-{index:06}.pose.txt").write_text(text)
    trees.save(tmp_path / "r/frame-000099.color.jpg", trees.texture(0))
    capture = read_capture(tmp_path / "r")
    assert dict(capture.dropped) == {
        "non-finite pose": 2, "pose that is not rigid": 1, "no pose file": 1,
    }  # fmt: skip
    mended = view_cameras(capture)[0]
    rotation = mended.viewmats[0, :3, :3]
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(mended.centers[0], pose[:3, 3], atol=1e-12, rtol=0)


def test_transforms_fields(trees, tmp_path: Path) -> None:
    trees.write("transforms", tmp_path / "t")
    capture = read_capture(tmp_path / "t")
    assert capture.metric
    assert capture.points is not None
    assert capture.points.xyz.tolist() == [[0.5, -1, 2], [1, 2, 3.25]]
    assert capture.points.rgb.tolist() == [[255, 128, 0], [1, 2, 3]]
    view = capture.views[2]
    assert view.distortion == Distortion("opencv", trees.lens)
    flat = load_frame(view.__class__(**{**view.__dict__, "distortion": None}), 48, 32)
    assert flat.mask[5].tolist() == [x > 2 for x in range(48)]
    assert flat.depth is not None and float(flat.depth[10, 10]) == pytest.approx(1.52)


def test_blender_layout(trees, tmp_path: Path) -> None:
    names = trees.write("transforms", tmp_path / "t")
    source = tmp_path / "t/transforms.json"
    data = json.loads(source.read_text(encoding="utf-8"))
    frames = [
        {"file_path": "./" + name[: -len(".png")], "transform_matrix": frame["transform_matrix"]}
        for name, frame in zip(names, data["frames"], strict=True)
    ]
    source.unlink()
    (tmp_path / "t/transforms_train.json").write_text(
        json.dumps({"camera_angle_x": 0.8, "frames": frames})
    )
    rgba = np.dstack([trees.texture(0), np.full((32, 48), 255, np.uint8)])
    rgba[:, :10, 3] = 0
    trees.save(tmp_path / "t" / names[0], rgba)
    capture = read_capture(tmp_path / "t")
    assert [view.name for view in capture.views] == names
    focal = 24 / np.tan(0.4)
    torch.testing.assert_close(
        capture.views[0].K.diagonal(), torch.tensor([focal, focal, 1.0], dtype=torch.float64)
    )
    assert capture.views[0].K[:2, 2].tolist() == [24, 16]
    assert any("transforms_train.json" in note for note in capture.notes)
    frame = load_frame(capture.views[0], 48, 32)
    assert not frame.mask[:, :10].any() and frame.mask[:, 10:].all()
    # Transparent pixels keep the colour that is stored.
    expected = torch.from_numpy(trees.texture(0)).float() / 255
    torch.testing.assert_close(frame.image, expected)


def test_colmap_text_fields(trees, tmp_path: Path) -> None:
    trees.write("colmap", tmp_path / "c")
    capture = read_capture(tmp_path / "c")
    assert capture.points is not None
    assert capture.points.xyz.tolist() == [[0.5, -1, 2], [1, 2, 3.25]]
    assert capture.points.rgb.tolist() == [[255, 128, 0], [1, 2, 3]]
    assert capture.views[0].distortion == Distortion("opencv", trees.lens)
    # The model's own folder is a way to name the capture, too.
    direct = read_capture(tmp_path / "c/sparse/0")
    assert [v.name for v in direct.views] == [v.name for v in capture.views]
    assert direct.root == capture.root
    (tmp_path / "c/images").rename(tmp_path / "c/photos")
    assert read_capture(tmp_path / "c").views[0].name == "photos/left/im 0.png"


def test_colmap_takes_the_largest_model(trees, tmp_path: Path) -> None:
    trees.write("colmap", tmp_path / "c")
    (tmp_path / "c/sparse/0").rename(tmp_path / "c/sparse/1")
    small = tmp_path / "c/sparse/0"
    small.mkdir()
    for name in ("cameras.txt", "images.txt", "points3D.txt"):
        text = (tmp_path / "c/sparse/1" / name).read_text()
        if name == "images.txt":
            text = "\n".join(text.split("\n")[:5]) + "\n"
        (small / name).write_text(text)
    capture = read_capture(tmp_path / "c")
    assert len(capture.views) == trees.count
    assert capture.notes == ("model 1 with 5 photos taken; 0 has 2",)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("cameras_per_rig", [1, 2])
def test_colmap_agrees_with_pycolmap(
    trees, tmp_path: Path, text: bool, cameras_per_rig: int
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig = 2, cameras_per_rig
    options.num_frames_per_rig, options.num_points3D = 2, 20
    options.camera_width, options.camera_height = 48, 32
    pycolmap.set_random_seed(1)
    model = pycolmap.synthesize_dataset(options)
    folder = tmp_path / "c/sparse/0"
    folder.mkdir(parents=True)
    model.write_text(folder) if text else model.write_binary(folder)
    assert (folder / ("frames.txt" if text else "frames.bin")).is_file()
    for image in model.images.values():
        trees.save(tmp_path / "c/images" / image.name, trees.texture(0))

    def check() -> None:
        capture = read_capture(tmp_path / "c")
        views = {view.name: view for view in capture.views}
        assert len(views) == len(model.images) == 4 * cameras_per_rig
        for image in model.images.values():
            view = views[f"images/{image.name}"]
            expected = torch.eye(4, dtype=torch.float64)
            expected[:3] = torch.from_numpy(image.cam_from_world().matrix())
            torch.testing.assert_close(view.viewmat, expected, atol=1e-9, rtol=0)
            torch.testing.assert_close(
                view.K, torch.from_numpy(image.camera.calibration_matrix()), atol=1e-9, rtol=0
            )
        points = capture.points
        assert points is not None
        xyz = torch.stack([torch.from_numpy(p.xyz) for p in model.points3D.values()])
        distance = torch.cdist(xyz, points.xyz).min(dim=1).values
        assert len(points.xyz) == 20 and float(distance.max()) < 1e-5

    check()
    # Rigs and frames decide over the copies in images, as in COLMAP.
    if cameras_per_rig == 2 and not text:
        data = bytearray((folder / "images.bin").read_bytes())
        struct.pack_into("<d", data, 8 + 4 + 4 * 8, 99.0)
        (folder / "images.bin").write_bytes(bytes(data))
        check()


def test_cameras_json_lens(trees, tmp_path: Path) -> None:
    trees.write("cameras-json", tmp_path / "c")
    source = tmp_path / "c/cameras.json"
    data = json.loads(source.read_text())
    data["frames"][0]["distortion"] = {"model": "fisheye", "params": [0.1]}
    del data["w"], data["cx"]
    data["metric"] = True
    source.write_text(json.dumps(data))
    capture = read_capture(tmp_path / "c", name="other")
    assert capture.views[0].distortion == Distortion("fisheye", (0.1, 0, 0, 0))
    assert capture.views[1].distortion is None
    assert capture.views[1].K[0, 2] == 24
    assert capture.metric and capture.name == "other"


def test_cameras_of_another_resolution_are_rescaled(trees, tmp_path: Path) -> None:
    trees.write("cameras-json", tmp_path / "c")
    source = tmp_path / "c/cameras.json"
    data = json.loads(source.read_text())
    for key in ("w", "h", "fx", "fy", "cx", "cy"):
        data[key] *= 2
    del data["frames"][1]["fx"]
    source.write_text(json.dumps(data))
    capture = read_capture(tmp_path / "c")
    torch.testing.assert_close(capture.views[0].K, trees.K)
    assert capture.notes == ("cameras of 96x64 rescaled to photos of 48x32",)


def test_two_layouts_in_one_folder(trees, tmp_path: Path) -> None:
    trees.write("rgbd", tmp_path / "x")
    trees.write("colmap", tmp_path / "x")
    with pytest.raises(CaptureError, match=r"--set lift\.reader=colmap"):
        read_capture(tmp_path / "x")
    assert read_capture(tmp_path / "x", "rgbd").reader == "rgbd"
    with pytest.raises(UnknownNameError):
        read_capture(tmp_path / "x", "nonsense")


def test_ply_numbers_beyond_float32(tmp_path: Path) -> None:
    path = tmp_path / "p.ply"
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n1e300 0 0\n1 2 3\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = read_ply_points(path)
    assert points is not None and points.xyz.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_ply_binary(tmp_path: Path, order: str) -> None:
    kind = {"<": "little", ">": "big"}[order]
    header = (
        f"ply\nformat binary_{kind}_endian 1.0\nelement vertex 3\nproperty double x\n"
        "property double y\nproperty double z\nproperty float nx\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    rows = [(1.0, 2.0, 3.0, 0.0), (4.0, float("nan"), 6.0, 0.0), (7.0, 8.0, 9.0, 0.0)]
    body = b"".join(struct.pack(order + "3df", *row) for row in rows)
    path = tmp_path / "p.ply"
    path.write_bytes(header.encode() + body + b"rest")
    points = read_ply_points(path)
    assert points is not None
    assert points.xyz.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert points.rgb.tolist() == [[128] * 3] * 2
    path.write_bytes(header.encode() + body[:-1])
    with pytest.raises(CaptureError, match=r"p\.ply: fewer than the 3 vertices"):
        read_ply_points(path)
    path.write_bytes(header.replace("vertex 3", "vertex 999999999999999").encode())
    with pytest.raises(CaptureError, match=r"p\.ply"):
        read_ply_points(path)
