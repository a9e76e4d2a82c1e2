"""Poses, intrinsics and depth of a real RGB-D capture predict its own next photo."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_cli.capture.base import DepthCamera
from fit3d_cli.capture.files import intrinsics
from fit3d_cli.capture.frames import Frame, load_frame
from fit3d_cli.capture.read import read_capture
from fit3d_cli.capture.registration import register_depth
from fit3d_cli.images import read_depth, read_image, save_png


def _warp_errors(a: Frame, b: Frame) -> tuple[float, float, float]:
    """Median depth error (m) and mean colour error (0..255) with and without the warp."""
    height, width = a.image.shape[:2]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    assert a.depth is not None and b.depth is not None
    known = a.depth > 0
    z = a.depth[known].double()
    rays = torch.stack([x[known], y[known], torch.ones(len(z))], dim=1).double()
    points = (rays @ torch.linalg.inv(a.camera.Ks[0]).T) * z[:, None]
    motion = b.camera.viewmats[0] @ torch.linalg.inv(a.camera.viewmats[0])
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    pixels = moved @ b.camera.Ks[0].T
    u, v = (pixels[:, :2] / pixels[:, 2:]).unbind(1)
    ok = (moved[:, 2] > 0) & (u > 0) & (u < width) & (v > 0) & (v < height)
    col, row, depth = u[ok].long(), v[ok].long(), moved[ok, 2]
    measured = b.depth[row, col]
    seen = (measured > 0) & ((measured - depth).abs() < 0.05 * depth)
    before = a.image[known][ok][seen]
    return (
        float((measured - depth).abs()[measured > 0].median()),
        float((before - b.image[row, col][seen]).abs().mean()) * 255,
        float((before - b.image[known][ok][seen]).abs().mean()) * 255,
    )


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["sevenscenes_redkitchen", "hololens_office", "apc_shelf"])
def test_depth_warps_a_photo_into_the_next(realdata: Path, name: str) -> None:
    if not (realdata / name).is_dir():
        pytest.skip(f"no {name}")
    capture = read_capture(realdata / name)
    errors = []
    for i in range(0, len(capture.views) - 1, max(1, len(capture.views) // 8)):
        a, b = (load_frame(v, v.width // 2, v.height // 2) for v in capture.views[i : i + 2])
        errors.append(_warp_errors(a, b))
    depth, warped, unwarped = torch.tensor(errors).nanmedian(dim=0).values.tolist()
    assert depth < 0.015
    assert warped < 0.5 * unwarped


@pytest.mark.realdata
def test_depth_of_the_second_lens_fits_the_photos(realdata: Path, tmp_path: Path) -> None:
    """Red kitchen as published: depth with its own focal length, poses of the depth camera."""
    source = realdata / "sevenscenes_redkitchen"
    if not source.is_dir():
        pytest.skip("no sevenscenes_redkitchen")
    starts, gap = (20, 80, 140), 10
    eye = torch.eye(4, dtype=torch.float64)
    (tmp_path / "seq-01").mkdir()
    views = read_capture(source).views
    for index in sorted({i for s in starts for i in (s, s + gap)}):
        stem = views[index].name.removesuffix(".color.jpg")
        shutil.copy(source / f"{stem}.pose.txt", tmp_path / "seq-01")
        save_png(tmp_path / f"seq-01/{stem}.color.png", read_image(views[index].image_path))
        # The copy at hand was drawn into the photos with 520 px and no offset: back to 585.
        drawn = torch.from_numpy(read_depth(source / f"{stem}.depth.png"))
        camera = DepthCamera(intrinsics(520, 520, 320, 240), eye)
        raw = register_depth(drawn, camera, intrinsics(585, 585, 320, 240), 640, 480)
        save_png(tmp_path / f"seq-01/{stem}.depth.png", raw.round().numpy().astype(np.uint16))
    capture = read_capture(tmp_path)
    assert capture.reader == "7-scenes"
    frames = [load_frame(view, 320, 240) for view in capture.views]
    errors = [_warp_errors(a, b) for a, b in zip(frames[::2], frames[1::2], strict=True)]
    assert np.mean([e[1] for e in errors]) < 0.5 * np.mean([e[2] for e in errors])
    # Depth jumps where the photo does: 2.6 times its usual gradient, 1.2 as if depth lay on it.
    naive = [load_frame(replace(view, depth_camera=None), 320, 240) for view in capture.views]
    fit, misfit = (np.mean([_gradient_at_jumps(f) for f in some]) for some in (frames, naive))
    assert fit > 2.2 and fit > 1.8 * misfit


def _gradient_at_jumps(frame: Frame) -> float:
    """The photo's gradient where depth jumps by 15 cm, over its mean."""
    assert frame.depth is not None
    grey, z = frame.image.mean(-1), torch.where(frame.depth > 0, frame.depth, torch.nan)
    across, down = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    slope = (across.square() + down.square()).sqrt()
    jumps = (z[1:-1, 2:] - z[1:-1, :-2]).abs() > 0.15
    jumps |= (z[2:, 1:-1] - z[:-2, 1:-1]).abs() > 0.15
    return float(slope[jumps].mean() / slope.mean())
