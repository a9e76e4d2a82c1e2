"""RGB-D data sets as published: cameras, poses and depth agree on one wall."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.base import READERS, Distortion
from fit3d_cli.capture.frames import load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.sources.find import find_scans
from fit3d_cli.errors import CaptureError, ImageError

LAYOUTS = ["tum", "7-scenes", "replica", "scannet"]
NAMES = {
    "tum": [f"rgb/{1305031102.175304 + i:.6f}.png" for i in range(4)],
    "7-scenes": [f"{s}/frame-00000{i}.color.png" for s in ("seq-01", "seq-12") for i in (0, 1)],
    "replica": [f"results/frame00000{i}.jpg" for i in range(4)],
    "scannet": [f"color/{i}.jpg" for i in (2, 9, 10, 11)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_and_depth_agree(scans, tmp_path: Path, layout: str) -> None:
    capture = read_capture(scans.write(layout, tmp_path / "a scan.é"))
    assert (capture.reader, capture.name, capture.metric) == (layout, "a scan.é", True)
    assert [view.name for view in capture.views] == NAMES[layout]
    assert dict(capture.dropped) == {}
    width, height, (fx, fy, cx, cy) = scans.cameras[layout]
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    for index, view in enumerate(capture.views):
        assert (view.width, view.height) == (width, height)
        torch.testing.assert_close(view.K, K, atol=1e-6, rtol=0)
        expected = torch.from_numpy(scans.viewmat(layout, index))
        torch.testing.assert_close(view.viewmat, expected, atol=2e-5, rtol=0)
        size = (64, 48) if layout == "7-scenes" else (width, height)
        frame = load_frame(view, *size)
        assert frame.depth is not None and frame.mask.all()
        known = frame.depth > 0
        assert float(known.float().mean()) > 0.7
        # Every depth, put back into the world, lies on the wall.
        rows, columns = known.nonzero(as_tuple=True)
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(rows)]).double()
        points = torch.linalg.inv(frame.camera.Ks[0]) @ pixels * frame.depth[known].double()
        world = torch.linalg.inv(view.viewmat)
        points = world[:3, :3] @ points + world[:3, 3:]
        error = (torch.from_numpy(scans.normal) @ points - scans.offset) / 1.063
        if layout in ("tum", "replica"):  # depth of the photo's own pixels: rounding only
            assert float(error.abs().max()) < 2e-4
        else:  # nearest sample of another grid
            assert float(error.abs().max()) < 0.022
            assert abs(float(error.mean())) < 6e-4


def test_every_layout_is_of_one_reader_only(scans, trees, tmp_path: Path) -> None:
    known = (*LAYOUTS, *trees.layouts)
    for layout in LAYOUTS:
        scans.write(layout, tmp_path / f"all/a {layout}")
    for layout in trees.layouts:
        trees.write(layout, tmp_path / f"all/a {layout}")
    scans.sens_file(tmp_path / "all/packed/scene0000_00.sens")
    found = {scan.name: scan for scan in find_scans(tmp_path / "all")}
    assert set(found) == {*(f"a {layout}" for layout in known), "packed"}
    assert {found[f"a {layout}"].readers for layout in known} == {(n,) for n in known}
    assert found["packed"].source == "sens"
    # A sequence of 7-Scenes has rgbd's file names.
    assert READERS.get("7-scenes").sniff(tmp_path / "all/a 7-scenes/seq-12")
    assert not READERS.get("rgbd").sniff(tmp_path / "all/a 7-scenes/seq-12")
    for _, reader in READERS.items():  # must not raise, whatever it is
        for other in ("absent", "all", "all/packed", "all/packed/scene0000_00.sens"):
            assert not reader.sniff(tmp_path / other)


def test_one_sequence_alone(scans, tmp_path: Path) -> None:
    scans.write_sequence(tmp_path / "seq-03", [0, 1])
    capture = read_capture(tmp_path / "seq-03")
    assert [view.name for view in capture.views] == [f"frame-00000{i}.color.png" for i in (0, 1)]
    depth = load_frame(capture.views[0], 640, 480).depth
    assert depth is not None and float(depth.max()) < 10  # 65.535 m are none
    assert any("525 px and 25 mm" in note for note in capture.notes)
    # With intrinsics it is the layout whose depth is registered.
    (tmp_path / "seq-03/intrinsics.txt").write_text("585 0 320 0 585 240 0 0 1")
    assert read_capture(tmp_path / "seq-03").reader == "rgbd"


def test_seven_scenes_without_depth_or_pose(scans, tmp_path: Path) -> None:
    root = scans.write("7-scenes", tmp_path / "s")
    (root / "seq-01/frame-000000.depth.png").unlink()
    (root / "seq-12/frame-000001.pose.txt").unlink()
    capture = read_capture(root)
    assert capture.views[0].depth_path is None and capture.views[0].depth_camera is None
    assert dict(capture.dropped) == {"no pose file": 1}
    assert len(capture.views) == 3


def _published(scans, root: Path, sequence: str) -> Path:
    scans.write("tum", root / sequence)
    (root / sequence / "calibration.txt").unlink()
    return root / sequence


@pytest.mark.parametrize(
    ("folder", "focal", "center", "k1"),
    [
        ("rgbd_dataset_freiburg1_desk", 517.306408, 318.643040, 0.262383),
        ("rgbd_dataset_freiburg2_xyz", 520.908620, 325.141442, 0.231222),
        ("fr3_office", 535.4, 320.1, None),
    ],
)
def test_published_tum_cameras(
    scans, tmp_path: Path, folder: str, focal: float, center: float, k1: float | None
) -> None:
    capture = read_capture(_published(scans, tmp_path, folder))
    view = capture.views[0]
    # The tree has a tenth of the benchmark's 640x480; pixel centres move from 0 to +0.5.
    assert float(view.K[0, 0]) == pytest.approx(focal / 10)
    assert float(view.K[0, 2]) == pytest.approx((center + 0.5) / 10)
    lens = view.distortion
    assert lens is None if k1 is None else isinstance(lens, Distortion) and lens.params[0] == k1
    assert load_frame(view, 32, 24).depth is not None
    assert any("published camera of freiburg" in note for note in capture.notes)


def test_tum_calibration_with_a_lens(scans, tmp_path: Path) -> None:
    root = scans.write("tum", tmp_path / "freiburg1")
    (root / "calibration.txt").write_text("52 53 32.5 22.5 0.1 -0.2 0.001 0.002 0.3\n")
    lens = read_capture(root).views[0].distortion
    assert lens == Distortion("opencv", (0.1, -0.2, 0.001, 0.002, 0.3, 0, 0, 0))


def test_tum_joins_by_time(scans, tmp_path: Path) -> None:
    root = scans.write("tum", tmp_path / "t")
    lines = (root / "depth.txt").read_text().splitlines()
    early = lines[1].split()
    # The first depth map is too late for its photo, by 1 ms; the second photo's pose is lost.
    lines[1] = f"{1305031102.175304 + 0.021:.6f} {early[1]}"
    (root / "depth.txt").write_text("\n".join(reversed(lines)))
    track = (root / "groundtruth.txt").read_text().splitlines()
    kept = [line for line in track if not line.startswith("1305031103")]
    (root / "groundtruth.txt").write_text("\n".join(kept))
    capture = read_capture(root)
    assert [view.name for view in capture.views] == [NAMES["tum"][i] for i in (0, 2, 3)]
    assert dict(capture.dropped) == {"no pose within 0.02 s": 1}
    assert [view.depth_path is None for view in capture.views] == [True, False, False]
    assert any("1 of 4 photos have no depth" in note for note in capture.notes)
    (root / "depth.txt").unlink()
    assert all(view.depth_path is None for view in read_capture(root).views)


def test_tum_interpolates_between_poses(scans, tmp_path: Path) -> None:
    root = scans.write("tum", tmp_path / "t")
    # Photo at 0, poses at -4 ms (x = 0) and +12 ms (x = 1.6, turned by 0.16 rad about y).
    turn = f"0 {np.sin(0.08):.9f} 0 {np.cos(0.08):.9f}"
    (root / "groundtruth.txt").write_text(
        f"1305031102.171304 0 0 0 0 0 0 1\n1305031102.187304 1.6 0 0 {turn}\n"
        "1305031103.175304 0 0 0 0 0 0 -1\n"
    )
    first, second = read_capture(root).views
    c2w = torch.linalg.inv(first.viewmat)
    assert float(c2w[0, 3]) == pytest.approx(0.4, abs=1e-4)
    assert float(torch.atan2(c2w[0, 2], c2w[0, 0])) == pytest.approx(0.04, abs=1e-4)
    assert torch.equal(second.viewmat, torch.eye(4, dtype=torch.float64))


def test_replica_subsampled(scans, tmp_path: Path) -> None:
    root = scans.write("replica", tmp_path / "office0")
    for name in ("frame000000.jpg", "depth000000.png", "frame000002.jpg"):
        (root / "results" / name).unlink()
    capture = read_capture(root)
    assert [view.name for view in capture.views] == [NAMES["replica"][i] for i in (1, 3)]
    expected = torch.from_numpy(scans.viewmat("replica", 3))
    torch.testing.assert_close(capture.views[1].viewmat, expected, atol=1e-9, rtol=0)
    assert capture.notes == ("4 poses, 2 of them with a photo",)
    # The camera file may lie beside the scene, too, where it wins.
    params = (tmp_path / "cam_params.json").read_text().replace('"fx": 30.0', '"fx": 31.0')
    (root / "cam_params.json").write_text(params)
    assert float(read_capture(root).views[0].K[0, 0]) == 31


def test_scannet_drops_lost_frames(scans, tmp_path: Path) -> None:
    root = scans.write("scannet", tmp_path / "scene0000_00")
    (root / "pose/9.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (root / "pose/11.txt").unlink()
    (root / "depth/10.png").unlink()
    capture = read_capture(root)
    assert [view.name for view in capture.views] == ["color/2.jpg", "color/10.jpg"]
    assert dict(capture.dropped) == {"non-finite pose": 1, "no pose file": 1}
    assert capture.views[1].depth_path is None


def test_scannet_without_depth_and_extrinsics(scans, tmp_path: Path) -> None:
    root = scans.write("scannet", tmp_path / "s")
    for name in ("intrinsic_depth", "extrinsic_depth", "extrinsic_color"):
        (root / f"intrinsic/{name}.txt").unlink()
    for file in (root / "depth").iterdir():
        file.unlink()
    view = read_capture(root).views[0]
    assert view.depth_path is None
    expected = torch.from_numpy(np.linalg.inv(scans.pose(0)))
    torch.testing.assert_close(view.viewmat, expected, atol=1e-6, rtol=0)


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _swap(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


def _append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


def _picture(path: Path, width: int, height: int) -> None:
    kind = np.uint16 if "depth" in str(path) else np.uint8
    shape = (height, width) if kind is np.uint16 else (height, width, 3)
    Image.fromarray(np.ones(shape, kind)).save(path)


RGB0, DEPTH0 = "rgb/1305031102.175304.png", "depth/1305031102.182304.png"
SEVEN = "seq-01/frame-000000"
# layout, what is done to the tree, the name that the message must hold, words of the message
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "tum: photo missing": (
        "tum", lambda r: (r / RGB0).unlink(), RGB0, "1 of 8 files are missing"),
    "tum: depth missing": (
        "tum", lambda r: (r / DEPTH0).unlink(), DEPTH0, "1 of 8 files are missing"),
    "tum: photo truncated": ("tum", lambda r: _cut(r / RGB0, 200), RGB0, "cannot be read"),
    "tum: depth truncated": ("tum", lambda r: _cut(r / DEPTH0, 100), DEPTH0, "cannot be read"),
    "tum: depth of other aspect": (
        "tum", lambda r: _picture(r / DEPTH0, 48, 64), DEPTH0, "48x64, its photo 64x48"),
    "tum: photos turned": ("tum", lambda r: _picture(r / RGB0, 48, 64), DEPTH0,
        "64x48, its photo 48x64"),
    "tum: short pose": (
        "tum", lambda r: _append(r / "groundtruth.txt", "1305031109.1 1 2 3"),
        "groundtruth.txt", "line 18: 4 words, expected timestamp tx ty tz qx qy qz qw"),
    "tum: word in pose": (
        "tum", lambda r: _append(r / "groundtruth.txt", "1305031109.1 1 2 x 0 0 0 1"),
        "groundtruth.txt", "line 18: 'x' is no number"),
    "tum: two poses at once": (
        "tum", lambda r: _append(r / "groundtruth.txt", "1.5 1 2 3 0 0 0 1\n1.5 2 2 3 0 0 0 1"),
        "groundtruth.txt", "line 19: timestamp 1.5 has two poses"),
    "tum: two photos at once": (
        "tum", lambda r: _append(r / "rgb.txt", "1305031102.175304 rgb/other.png"),
        "rgb.txt", "line 7: timestamp 1305031102.175304 stands there twice"),
    "tum: photo listed twice": (
        "tum", lambda r: _append(r / "rgb.txt", f"1305031102.176 {RGB0}"), RGB0,
        "listed more than once"),
    "tum: line without file": (
        "tum", lambda r: _append(r / "depth.txt", "1305031109.1"), "depth.txt",
        "line 6: 1 words, expected timestamp and file name"),
    "tum: no time": (
        "tum", lambda r: _append(r / "rgb.txt", "nan rgb/x.png"), "rgb.txt", "nan is no time"),
    "tum: no photos": (
        "tum", lambda r: (r / "rgb.txt").write_text("# none\n"), "scene", "0 usable views"),
    "tum: no poses": (
        "tum", lambda r: (r / "groundtruth.txt").write_text(""), "scene",
        "0 usable views (4 x no pose within 0.02 s)"),
    "tum: poses NaN": (
        "tum", lambda r: (r / "groundtruth.txt").write_text(
            "".join(f"{1305031102.175304 + i:.6f} 0 0 0 nan 0 0 1\n" for i in range(4))),
        "scene", "0 usable views (4 x non-finite pose)"),
    "tum: quaternion of no length": (
        "tum", lambda r: (r / "groundtruth.txt").write_text(
            "".join(f"{1305031102.175304 + i:.6f} 0 0 0 0 0 0 0\n" for i in range(4))),
        "scene", "0 usable views (4 x non-finite pose)"),
    "tum: camera unknown": (
        "tum", lambda r: (r / "calibration.txt").unlink(), "scene",
        "neither freiburg1, freiburg2 nor freiburg3"),
    "tum: calibration short": (
        "tum", lambda r: (r / "calibration.txt").write_text("52 53 32"), "calibration.txt",
        "3 numbers, expected fx fy cx cy"),
    "tum: calibration NaN": (
        "tum", lambda r: (r / "calibration.txt").write_text("nan 53 32 24"), RGB0,
        "not positive"),
    "7-scenes: photo missing": (
        "7-scenes", lambda r: (r / f"{SEVEN}.color.png").unlink(), f"{SEVEN}.color.png",
        "1 of 8 files are missing"),
    "7-scenes: photo of another camera": (
        "7-scenes", lambda r: _picture(r / f"{SEVEN}.color.png", 320, 240),
        f"{SEVEN}.color.png", "320x240, 7-Scenes has 640x480"),
    "7-scenes: depth of another camera": (
        "7-scenes", lambda r: _picture(r / f"{SEVEN}.depth.png", 320, 240),
        f"{SEVEN}.depth.png", "320x240, 7-Scenes has 640x480"),
    "7-scenes: photo truncated": (
        "7-scenes", lambda r: _cut(r / f"{SEVEN}.color.png", 900), f"{SEVEN}.color.png", ""),
    "7-scenes: depth truncated": (
        "7-scenes", lambda r: _cut(r / f"{SEVEN}.depth.png", 900), f"{SEVEN}.depth.png", ""),
    "7-scenes: pose short": (
        "7-scenes", lambda r: _cut(r / f"{SEVEN}.pose.txt", 100), f"{SEVEN}.pose.txt",
        "numbers, expected 4x4"),
    "7-scenes: poses lost": (
        "7-scenes", lambda r: [p.write_text("-1.#IND " * 16) for p in r.rglob("*.pose.txt")],
        "scene", "0 usable views (4 x non-finite pose)"),
    "7-scenes: packed": (
        "7-scenes", lambda r: (r / "seq-02.zip").write_bytes(b"PK"), "scene",
        "1 sequences are still packed, e.g. seq-02.zip"),
    "replica: photo missing": (
        "replica", lambda r: (r / "traj.txt").write_text(
            (r / "traj.txt").read_text().rsplit("\n", 2)[0]), "traj.txt",
        "3 poses, none for frame000003.jpg"),
    "replica: pose short": (
        "replica", lambda r: _append(r / "traj.txt", "1 2 3"), "traj.txt", "line 5: 3 numbers"),
    "replica: pose word": (
        "replica", lambda r: _append(r / "traj.txt", "x " * 16), "traj.txt",
        "line 5: 'x' is no number"),
    "replica: poses infinite": (
        "replica", lambda r: (r / "traj.txt").write_text(("inf " * 16 + "\n") * 4), "scene",
        "0 usable views (4 x non-finite pose)"),
    "replica: poses empty": (
        "replica", lambda r: (r / "traj.txt").write_text(""), "traj.txt", "0 poses"),
    "replica: no camera": (
        "replica", lambda r: (r.parent / "cam_params.json").unlink(), "scene",
        "no cam_params.json here or in the folder above"),
    "replica: camera without scale": (
        "replica", lambda r: _swap(r.parent / "cam_params.json", '"scale"', '"skale"'),
        "cam_params.json", "camera.scale: expected a number, found nothing"),
    "replica: camera of scale 0": (
        "replica", lambda r: _swap(r.parent / "cam_params.json", "6553.5", "0"),
        "frame000000.jpg", "depth scale"),
    "replica: camera no object": (
        "replica", lambda r: (r.parent / "cam_params.json").write_text('{"camera": 3}'),
        "cam_params.json", "camera: expected an object"),
    "replica: photo of other aspect": (
        "replica", lambda r: _picture(r / "results/frame000001.jpg", 34, 60),
        "results/frame000001.jpg", "do not match"),
    "replica: depth truncated": (
        "replica", lambda r: _cut(r / "results/depth000002.png", 90),
        "results/depth000002.png", ""),
    "replica: frame in two formats": (
        "replica", lambda r: _picture(r / "results/frame000001.png", 60, 34), "results",
        "frame000001.jpg and frame000001.png are the same frame"),
    "scannet: no intrinsics": (
        "scannet", lambda r: (r / "intrinsic/intrinsic_color.txt").unlink(),
        "intrinsic/intrinsic_color.txt", "no such file"),
    "scannet: no intrinsics of depth": (
        "scannet", lambda r: (r / "intrinsic/intrinsic_depth.txt").unlink(),
        "intrinsic/intrinsic_depth.txt", "no such file"),
    "scannet: intrinsics short": (
        "scannet", lambda r: _cut(r / "intrinsic/intrinsic_color.txt", 20),
        "intrinsic/intrinsic_color.txt", "numbers, expected 3x3 or 4x4"),
    "scannet: focal length of depth 0": (
        "scannet", lambda r: _swap(r / "intrinsic/intrinsic_depth.txt", "44 ", "0 "),
        "depth/2.png", "depth focal lengths 0, 44.5 are not positive"),
    "scannet: extrinsics singular": (
        "scannet", lambda r: (r / "intrinsic/extrinsic_depth.txt").write_text("0 " * 16),
        "intrinsic/extrinsic_depth.txt", "not a rigid motion"),
    "scannet: extrinsics stretched": (
        "scannet", lambda r: _swap(r / "intrinsic/extrinsic_depth.txt", "1 0 0", "3 0 0"),
        "depth/2.png", "not a rigid motion"),
    "scannet: pose short": (
        "scannet", lambda r: _cut(r / "pose/10.txt", 30), "pose/10.txt", "expected 4x4"),
    "scannet: pose words": (
        "scannet", lambda r: (r / "pose/10.txt").write_text("x " * 16), "pose/10.txt",
        "'x' is no number"),
    "scannet: all lost": (
        "scannet", lambda r: [p.write_text("inf " * 16) for p in (r / "pose").iterdir()],
        "scene", "0 usable views (4 x non-finite pose)"),
    "scannet: no poses": (
        "scannet", lambda r: [p.unlink() for p in (r / "pose").iterdir()], "scene",
        "0 usable views (4 x no pose file)"),
    "scannet: depth of two sizes": (
        "scannet", lambda r: _picture(r / "depth/10.png", 96, 72), "depth/10.png",
        "96x72, the other depth maps 48x36"),
    "scannet: depth of a size that is not the intrinsics'": (
        "scannet", lambda r: [_picture(p, 96, 72) for p in (r / "depth").iterdir()],
        "depth/2.png", "96x72, but the depth camera's axis is at 23, 18.5"),
    "scannet: photo of two sizes": (
        "scannet", lambda r: _picture(r / "color/9.jpg", 72, 96), "color/9.jpg", "do not match"),
    "scannet: photo truncated": (
        "scannet", lambda r: _cut(r / "color/10.jpg", 800), "color/10.jpg", "truncated"),
    "scannet: depth in 8 bit": (
        "scannet", lambda r: Image.new("L", (48, 36)).save(r / "depth/10.png"), "depth/10.png",
        "16-bit"),
    "scannet: frame in two formats": (
        "scannet", lambda r: _picture(r / "color/9.png", 96, 72), "color",
        "9.jpg and 9.png are the same frame"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage(scans, tmp_path: Path, case: str) -> None:
    layout, damage, name, words = DAMAGES[case]
    root = scans.write(layout, tmp_path / "scene")
    damage(root)
    with pytest.raises((CaptureError, ImageError)) as caught:
        for view in read_capture(root).views:
            load_frame(view, 24, 18)
    assert name in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.hint and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
