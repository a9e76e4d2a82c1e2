"""Poses, intrinsics and depth of a real RGB-D capture predict its own next photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_cli.capture.frames import Frame, load_frame
from fit3d_cli.capture.read import read_capture


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
