from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_cli.capture.read import read_capture

BASE = "41069021_frames"
PHOTO = f"{BASE}/lowres_wide/41069021_305.576.png"
PINCAM = f"{BASE}/lowres_wide_intrinsics/41069021_305.577.pincam"
DEPTH = f"{BASE}/lowres_depth/41069021_305.576.png"
TRAJ = f"{BASE}/lowres_wide.traj"


def test_a_pixel_and_its_depth_land_on_the_point(phones, tmp_path: Path) -> None:
    """As the data's own loader places points: c2w = inverse of [R | t], OpenCV axes."""
    phones.arkitscenes(tmp_path / "a")
    lines = (tmp_path / "a" / TRAJ).read_text().splitlines()
    for view, line in zip(read_capture(tmp_path / "a").views, lines, strict=True):
        vector = np.array(line.split()[1:4], float)
        cross = np.cross(np.eye(3), vector)
        rotation = torch.linalg.matrix_exp(torch.from_numpy(cross)).numpy()
        translation = np.array(line.split()[4:], float)
        u, v = phones.pixel(view)
        depth = float((view.viewmat @ torch.tensor([*phones.point, 1.0]).double())[2])
        camera = np.linalg.inv(view.K.numpy()) @ [u, v, 1.0] * depth
        np.testing.assert_allclose(rotation.T @ (camera - translation), phones.point, atol=1e-9)


def test_folders_that_name_it(phones, tmp_path: Path) -> None:
    phones.arkitscenes(tmp_path / "a")
    inner = read_capture(tmp_path / "a" / BASE)
    assert inner.views[0].name == "lowres_wide/41069021_305.377.png"
    # The raw data have no folder of frames.
    (tmp_path / "a" / BASE).rename(tmp_path / "raw")
    assert [v.name for v in read_capture(tmp_path / "raw").views] == [v.name for v in inner.views]


def test_photos_at_sixty_hertz_take_the_nearest_pose(phones, tmp_path: Path) -> None:
    phones.arkitscenes(tmp_path / "a")
    photos = tmp_path / "a" / BASE / "lowres_wide"
    for k in range(1, 6):
        shutil.copy(
            photos / "41069021_305.377.png", photos / f"41069021_{305.377 + k / 60:.3f}.png"
        )
    shutil.copy(photos / "41069021_305.377.png", photos / "41069021_305.480.png")
    shutil.copy(
        tmp_path / "a" / BASE / "lowres_wide_intrinsics/41069021_305.477.pincam",
        tmp_path / "a" / BASE / "lowres_wide_intrinsics/41069021_305.480.pincam",
    )
    capture = read_capture(tmp_path / "a")
    # 305.460 is 17 ms from the pose at 305.4775, 305.480 is 2.5 ms from it.
    assert len(capture.views) == phones.count + 1
    assert dict(capture.dropped) == {"no pose within 5 ms": 5}
    assert torch.equal(capture.views[1].viewmat, capture.views[2].viewmat)
    assert capture.views[2].depth_path is None and capture.views[1].depth_path is not None


def test_poses_that_are_not_finite_are_dropped(phones, tmp_path: Path) -> None:
    phones.arkitscenes(tmp_path / "a")
    lines = (tmp_path / "a" / TRAJ).read_text().splitlines()
    lines[1] = "305.477 nan 0 0 0 0 0"
    lines[2] = "305.576 1.7e308 1.7e308 1.7e308 0 0 0"
    lines[3] = "305.676 0 0 0 1 2 3"
    (tmp_path / "a" / TRAJ).write_text("\n".join(lines[::-1]))
    capture = read_capture(tmp_path / "a")
    assert dict(capture.dropped) == {"non-finite pose": 2}
    assert torch.equal(capture.views[-2].viewmat[:3, :3], torch.eye(3).double())
    assert capture.views[-2].viewmat[:3, 3].tolist() == [1, 2, 3]


DAMAGES = {
    "no trajectory": (lambda r: (r / TRAJ).unlink(), "lowres_wide.traj", "no such file"),
    "short line": (
        lambda r: (r / TRAJ).write_text("305.377 0 0 0 1 2\n"), "lowres_wide.traj",
        "line 1: 6 numbers, expected 7"),
    "words": (
        lambda r: (r / TRAJ).write_text("\n305.377 a 0 0 1 2 3\n"), "lowres_wide.traj", "line 2"),
    "time": (
        lambda r: (r / TRAJ).write_text("nan 0 0 0 1 2 3\n"), "lowres_wide.traj", "time nan"),
    "empty": (lambda r: (r / TRAJ).write_text(""), "/x", "0 usable views (5 x no pose"),
    "no intrinsics": (
        lambda r: shutil.rmtree(r / BASE / "lowres_wide_intrinsics"), "lowres_wide_intrinsics",
        "no such folder"),
    "one without intrinsics": (
        lambda r: (r / PINCAM).unlink(), "lowres_wide_intrinsics",
        "no intrinsics for 41069021_305.576.png"),
    "intrinsics short": (
        lambda r: (r / PINCAM).write_text("64 48 50"), "305.577.pincam",
        "3 numbers, expected 6"),
    "intrinsics infinite": (
        lambda r: (r / PINCAM).write_text("64 48 inf 51 31 25"), "305.576.png", "not positive"),
    "size": (
        lambda r: (r / PINCAM).write_text("64.5 nan 50 51 31 25"), "305.577.pincam",
        "not a number of pixels"),
    "huge size": (
        lambda r: (r / PINCAM).write_text("1e400 48 50 51 31 25"), "305.577.pincam",
        "not a number of pixels"),
    "intrinsics of another shape": (
        lambda r: (r / PINCAM).write_text("48 64 50 51 25 31"), "305.576.png", "do not match"),
    "photo name": (
        lambda r: (r / PHOTO).rename(r / BASE / "lowres_wide/photo.png"), "photo.png",
        "no time in the file's name"),
    "photo empty": (lambda r: (r / PHOTO).write_bytes(b""), "305.576.png", "not a JPEG"),
    "depth of another shape": (
        lambda r: Image.new("I;16", (48, 64)).save(r / DEPTH), "305.576.png", "48x64"),
    "binary": (lambda r: (r / PINCAM).write_bytes(b"\xff\x00" * 9), "305.577.pincam", "1 numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_damage(phones, tmp_path: Path, case: str, told: Callable[..., None]) -> None:
    phones.arkitscenes(tmp_path / "x")
    damage, name, words = DAMAGES[case]
    damage(tmp_path / "x")
    told(tmp_path / "x", name, words)
