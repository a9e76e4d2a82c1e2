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

from fit3d_cli.capture.base import READERS
from fit3d_cli.capture.read import read_capture
from fit3d_cli.geometry.rotations import quats_to_matrices


def test_a_point_falls_where_the_app_says(phones, tmp_path: Path) -> None:
    phones.record3d(tmp_path / "r")
    metadata = json.loads((tmp_path / "r/metadata").read_text())
    for view, pose in zip(read_capture(tmp_path / "r").views, metadata["poses"], strict=True):
        qx, qy, qz, qw, *place = pose
        rotation = quats_to_matrices(torch.tensor([[qw, qx, qy, qz]]).double())[0].numpy()
        x, y, z = rotation.T @ (np.array(phones.point) - place)
        fx, _, _, _, fy, _, cx, cy, _ = metadata["K"]  # columns
        expected = [cx + fx * x / -z, cy - fy * y / -z]
        assert phones.pixel(view) == pytest.approx(expected, abs=1e-6)


def test_intrinsics_of_each_frame_win(phones, tmp_path: Path, edit: Callable[..., None]) -> None:
    phones.record3d(tmp_path / "r")
    each = [[50 + i, 51 + i, 31, 25] for i in range(phones.count)]
    edit(tmp_path / "r/metadata", lambda d: d.update(perFrameIntrinsicCoeffs=each))
    assert [float(v.K[1, 1]) for v in read_capture(tmp_path / "r").views] == [51, 52, 53, 54, 55]
    edit(tmp_path / "r/metadata", lambda d: d["perFrameIntrinsicCoeffs"].pop())
    capture = read_capture(tmp_path / "r")
    assert {float(v.K[1, 1]) for v in capture.views} == {51}
    assert capture.notes == (
        "perFrameIntrinsicCoeffs has 4 entries for 5 poses: K is taken for all frames",
    )
    edit(tmp_path / "r/metadata", lambda d: d.update(perFrameIntrinsicCoeffs=None))
    assert read_capture(tmp_path / "r").notes == ()


def test_frames_go_by_their_number(phones, tmp_path: Path) -> None:
    phones.record3d(tmp_path / "r")
    (tmp_path / "r/rgbd/1.jpg").unlink()
    shutil.copy(tmp_path / "r/rgbd/0.jpg", tmp_path / "r/rgbd/12.jpg")
    capture = read_capture(tmp_path / "r")
    assert [v.name for v in capture.views] == [f"rgbd/{i}.jpg" for i in (0, 2, 3, 4)]
    torch.testing.assert_close(capture.views[1].viewmat, phones.viewmats[2], atol=1e-9, rtol=0)
    assert capture.notes == ("4 of the 5 recorded frames have a photo here",)
    assert dict(capture.dropped) == {"no pose": 1}


def test_export_with_exr(phones, tmp_path: Path) -> None:
    phones.record3d(tmp_path / "r")
    whole = read_capture(tmp_path / "r")
    (tmp_path / "r/metadata").rename(tmp_path / "r/metadata.json")
    (tmp_path / "r/rgbd").rename(tmp_path / "r/rgb")
    for depth in (tmp_path / "r/rgb").glob("*.depth"):
        depth.unlink()
    for depth in (tmp_path / "r/depth").iterdir():
        depth.rename(depth.with_suffix(".exr"))
    capture = read_capture(tmp_path / "r")
    assert [v.name for v in capture.views] == [f"rgb/{i}.jpg" for i in range(phones.count)]
    assert all(
        torch.equal(a.viewmat, b.viewmat) for a, b in zip(capture.views, whole.views, strict=True)
    )
    assert len(capture.notes) == 1 and ".exr is not read" in capture.notes[0]


def test_packed_depth_is_told(phones, tmp_path: Path) -> None:
    phones.record3d(tmp_path / "r")
    shutil.rmtree(tmp_path / "r/depth")
    capture = read_capture(tmp_path / "r")
    assert all(view.depth_path is None for view in capture.views)
    assert len(capture.notes) == 1 and "pip install pyliblzfse" in capture.notes[0]


def test_zero_quaternion_is_dropped(phones, tmp_path: Path, edit: Callable[..., None]) -> None:
    phones.record3d(tmp_path / "r")
    edit(tmp_path / "r/metadata", lambda d: d["poses"].__setitem__(2, [0] * 7))
    assert dict(read_capture(tmp_path / "r").dropped) == {"non-finite pose": 1}


def same_poses(data: dict[str, Any]) -> None:
    data["poses"] = [data["poses"][0]] * 5


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no poses": (lambda d: d.pop("poses"), "no poses"),
    "empty poses": (lambda d: d.update(poses=[]), "no poses"),
    "poses all the same": (same_poses, "all 5 poses are the same"),
    "poses an object": (lambda d: d.update(poses={}), "poses: expected a list"),
    "short pose": (lambda d: d["poses"][3].pop(), "poses[3]: 6 numbers, expected 7"),
    "pose a number": (lambda d: d["poses"].__setitem__(1, 7), "poses[1]: expected a list"),
    "pose with text": (lambda d: d["poses"][1].__setitem__(0, "a"), "poses[1].0: expected a numb"),
    "pose huge": (lambda d: d["poses"][1].__setitem__(4, 10**400), "expected a finite number"),
    "no K": (lambda d: d.pop("K"), "K: expected a list of numbers, found nothing"),
    "K short": (lambda d: d["K"].pop(), "K: 8 numbers, expected 9"),
    "K by rows": (
        lambda d: d.update(K=[50, 0, 31, 0, 51, 25, 0, 0, 1]), "K: expected the columns of"),
    "no width": (lambda d: d.pop("w"), "w: expected a number, found nothing"),
    "half a height": (lambda d: d.update(h=48.5), "h: expected a positive whole number"),
    "short coefficients": (
        lambda d: d.update(perFrameIntrinsicCoeffs=[[1, 2, 3]] * 5),
        "perFrameIntrinsicCoeffs[0]: 3 numbers, expected 4"),
    "coefficients a text": (
        lambda d: d.update(perFrameIntrinsicCoeffs="x"), "IntrinsicCoeffs: expected a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_metadata(
    phones, tmp_path: Path, case: str, told: Callable[..., None], edit: Callable[..., None]
) -> None:
    phones.record3d(tmp_path / "r")
    damage, words = DAMAGES[case]
    edit(tmp_path / "r/metadata", damage)
    told(tmp_path / "r", "metadata", words)


FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "bad JSON": (lambda r: (r / "metadata").write_text("{"), "metadata", "not JSON"),
    "NaN": (lambda r: (r / "metadata").write_text('{"w": NaN}'), "metadata", "NaN is not JSON"),
    "a list": (lambda r: (r / "metadata").write_text("[]"), "metadata", "expected an object"),
    "binary": (lambda r: (r / "metadata").write_bytes(bytes(range(256))), "metadata", "JSON"),
    "photo empty": (lambda r: (r / "rgbd/2.jpg").write_bytes(b""), "rgbd/2.jpg", "not a JPEG"),
    "photo turned": (
        lambda r: Image.new("RGB", (48, 64)).save(r / "rgbd/2.jpg"), "rgbd/2.jpg", "do not match"),
    "one photo left": (
        lambda r: [(r / f"rgbd/{i}.jpg").unlink() for i in range(4)], "/r", "1 usable views"),
    "depth of another shape": (
        lambda r: Image.new("I;16", (24, 32)).save(r / "depth/2.png"), "depth/2.png", "24x32"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_damaged_file(phones, tmp_path: Path, case: str, told: Callable[..., None]) -> None:
    phones.record3d(tmp_path / "r")
    damage, name, words = FILES[case]
    damage(tmp_path / "r")
    told(tmp_path / "r", name, words)


def test_metadata_without_photos_is_not_claimed(phones, tmp_path: Path) -> None:
    phones.record3d(tmp_path / "r")
    shutil.rmtree(tmp_path / "r/rgbd")
    (tmp_path / "r/rgb").mkdir()
    (tmp_path / "r/rgb/photo.jpg").write_bytes(b"")
    (tmp_path / "r/metadata").rename(tmp_path / "r/metadata.json")
    assert not READERS.get("record3d").sniff(tmp_path / "r")
