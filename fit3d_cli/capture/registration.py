"""Depth measured by another camera than the photo's, brought onto the photo's pixels.

Many sensors have a second lens for depth, or store depth at another resolution and crop. Every
depth pixel is back-projected with its own intrinsics, moved to the photo's camera and drawn there
over its footprint, so that a coarse depth map leaves no holes. The nearest surface wins; on one
surface the sample whose centre is closest to the pixel's does, so that depths never mix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fit3d_cli.capture.base import DepthCamera, Distortion
from fit3d_cli.capture.distortion import distort, fold_radius

# Half the side of a footprint in depth pixels. The 0.1 beyond one half closes the cracks that
# rotation, parallax on slanted surfaces and rounding open between neighbours.
_HALF = 0.6
_MOST = 32.0  # pixels; half the side of the largest footprint that is filled
_SAME = 0.02  # relative difference of depth up to which two samples are of one surface
_WIDEST = 10.0  # tangent of the widest angle that a distorted photo shows
_STEPS = 1 << 20  # of a distance, where ties are told apart


def register_depth(
    depth: Tensor, camera: DepthCamera, K: Tensor, width: int, height: int,
    lens: Distortion | None = None,
) -> Tensor:  # fmt: skip
    """The depth map that the photo's camera would have measured.

    Args:
        depth: ``[h, w]`` along the depth camera's axis, world units, 0 = unknown.
        camera: Where it was measured.
        K: ``[3, 3]`` float64 intrinsics of the result, pixel centres at +0.5.
        width: Width of the result, pixels.
        height: Height of the result, pixels.
        lens: Distortion of the result's pixels; None for a pinhole.

    Returns:
        ``[height, width]`` float32 along the photo's axis, 0 where the depth camera saw nothing
        or something else lies in front.
    """
    u, v, z, rx, ry = _project(depth, camera, K, lens)
    # Columns and rows whose pixel centre the footprint covers.
    left, right = torch.ceil(u - rx - 0.5).long(), torch.floor(u + rx - 0.5).long()
    top, bottom = torch.ceil(v - ry - 0.5).long(), torch.floor(v + ry - 0.5).long()
    left, top = left.clamp_min(0), top.clamp_min(0)
    right, bottom = right.clamp_max(width - 1), bottom.clamp_max(height - 1)
    touched = ((left <= right) & (top <= bottom)).nonzero()[:, 0]
    cells, samples = _covered(
        left[touched], right[touched], top[touched], bottom[touched], width, touched
    )
    depths = z[samples]
    nearest = torch.full((height * width,), math.inf, dtype=torch.float64)
    nearest.scatter_reduce_(0, cells, depths, "amin")
    front = depths <= nearest[cells] * (1 + _SAME)
    cells, samples = cells[front], samples[front]
    across = (cells % width + 0.5 - u[samples]) / rx[samples]
    down = (cells.div(width, rounding_mode="floor") + 0.5 - v[samples]) / ry[samples]
    # One integer holds distance and sample: its minimum is the same on every machine.
    rank = ((across.square() + down.square()) * _STEPS).long() << 32 | samples
    best = torch.full((height * width,), torch.iinfo(torch.int64).max)
    best.scatter_reduce_(0, cells, rank, "amin")
    known = nearest < math.inf
    result = torch.zeros(height * width, dtype=torch.float64)
    result[known] = z[best[known] & 0xFFFFFFFF]
    return result.to(torch.float32).reshape(height, width)


def _project(
    depth: Tensor, camera: DepthCamera, K: Tensor, lens: Distortion | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Position, depth and half footprint in the photo of every known depth pixel, ``[N]`` each."""
    rows, columns = (depth > 0).nonzero(as_tuple=True)
    measured = depth[rows, columns].to(torch.float64)
    pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(columns)]).to(torch.float64)
    points = torch.linalg.solve(camera.K, pixels) * measured
    x, y, z = camera.photo_from_depth[:3, :3] @ points + camera.photo_from_depth[:3, 3:]
    # Nearer than half of what was measured the footprint would be a blot.
    seen = z > 0.5 * measured
    x, y, z, measured = x[seen], y[seen], z[seen], measured[seen]
    plane = torch.stack([x / z, y / z], dim=-1)
    if lens is not None:
        known = plane.norm(dim=-1) < fold_radius(lens, _WIDEST)  # one to one up to there only
        plane, z, measured = distort(plane[known], lens), z[known], measured[known]
    u = K[0, 0] * plane[:, 0] + K[0, 1] * plane[:, 1] + K[0, 2]
    v = K[1, 1] * plane[:, 1] + K[1, 2]
    half = _HALF * measured / z
    rx = (half * float(K[0, 0] / camera.K[0, 0])).clamp_max(_MOST)
    ry = (half * float(K[1, 1] / camera.K[1, 1])).clamp_max(_MOST)
    # Far outside any picture: keeps the integers below small.
    return u.clamp(-1e6, 1e6), v.clamp(-1e6, 1e6), z, rx, ry


def _covered(
    left: Tensor, right: Tensor, top: Tensor, bottom: Tensor, width: int, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Every pair of a covered cell (row times width plus column) and its sample."""
    if not len(samples):
        return samples, samples
    cells, owners = [], []
    for down in range(int((bottom - top).max()) + 1):
        for across in range(int((right - left).max()) + 1):
            inside = (top + down <= bottom) & (left + across <= right)
            cells.append(((top + down) * width + left + across)[inside])
            owners.append(samples[inside])
    return torch.cat(cells), torch.cat(owners)
