"""Lens distortion: the forward models, and the warp that removes them.

The models are those of OpenCV's calibration module: radial-tangential with a rational radial
part, and the equidistant fisheye (Kannala and Brandt 2006). COLMAP's models are special cases.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from fit3d_cli.capture.base import Distortion

OPENCV = "opencv"
FISHEYE = "fisheye"
_BAND_PIXELS = 1 << 19
COEFFICIENTS = {OPENCV: 8, FISHEYE: 4}


def make_distortion(model: str, params: tuple[float, ...]) -> Distortion | None:
    """A padded ``Distortion``, or None if it is a pinhole after all.

    Args:
        model: ``"opencv"`` or ``"fisheye"``.
        params: At most 8 or 4 coefficients in the order of ``Distortion.params``.
    """
    padded = tuple(map(float, params)) + (0.0,) * (COEFFICIENTS[model] - len(params))
    return None if model == OPENCV and not any(padded) else Distortion(model, padded)


def distort(points: Tensor, distortion: Distortion) -> Tensor:
    """Where a lens moves points of the normalised image plane (z = 1).

    Args:
        points: ``[..., 2]`` ideal pinhole coordinates x / z, y / z.
        distortion: The lens.

    Returns:
        ``[..., 2]`` coordinates in the distorted picture, before K.
    """
    x, y = points.unbind(-1)
    r2 = x * x + y * y
    if distortion.model == FISHEYE:
        radius = r2.sqrt()
        scale = torch.where(
            radius > 1e-12, _profile(radius, distortion) / radius.clamp_min(1e-12), 1.0
        )
        return points * scale[..., None]
    p1, p2 = distortion.params[2:4]
    radial = _rational(r2, distortion)
    return torch.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        dim=-1,
    )


def _rational(r2: Tensor, distortion: Distortion) -> Tensor:
    k1, k2, _, _, k3, k4, k5, k6 = distortion.params
    return (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))


def _profile(radius: Tensor, distortion: Distortion) -> Tensor:
    """Distorted radius of an ideal radius, tangential terms aside."""
    if distortion.model == OPENCV:
        return radius * _rational(radius * radius, distortion)
    k1, k2, k3, k4 = distortion.params
    theta = torch.atan(radius)
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def fold_radius(distortion: Distortion, limit: float) -> float:
    """The ideal radius up to which the lens model is one to one, at most ``limit``.

    A polynomial with a negative coefficient bends back somewhere; beyond that point a warp
    would show a second, mirrored copy of the picture.
    """
    radii = torch.linspace(0, limit, 4097, dtype=torch.float64)
    rising = _profile(radii, distortion).diff() > 0
    falls = (~rising).nonzero()
    return limit if len(falls) == 0 else float(radii[int(falls[0])])


@lru_cache(maxsize=2)
def undistortion_grid(
    distortion: Distortion, intrinsics: tuple[float, float, float, float], width: int, height: int
) -> tuple[Tensor, Tensor]:
    """The inverse warp to a pinhole picture with the same K and size.

    Args:
        distortion: Lens of the stored picture.
        intrinsics: fx, fy, cx, cy in pixels, pixel centres at +0.5.
        width: Width of both pictures.
        height: Height of both pictures.

    Returns:
        ``[1, height, width, 2]`` float32 sampling positions for ``grid_sample`` with
        ``align_corners=False``, and ``[height, width]`` bool, True where the source lies
        inside the stored picture.
    """
    fx, fy, cx, cy = intrinsics
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - cx) / fx
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - cy) / fy
    limit = math.hypot(float(x.abs().max()), float(y.abs().max()))
    fold = fold_radius(distortion, limit)
    grid = torch.empty(1, height, width, 2)
    inside = torch.empty(height, width, dtype=torch.bool)
    band = max(1, _BAND_PIXELS // width)  # float64 temporaries of a band, not of the picture
    for top in range(0, height, band):
        rows = slice(top, top + band)
        ideal = torch.stack(torch.meshgrid(x, y[rows], indexing="xy"), dim=-1)
        source = distort(ideal, distortion)
        u = (source[..., 0] * fx + cx) / width
        v = (source[..., 1] * fy + cy) / height
        seen = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        if fold < limit:
            seen &= ideal.norm(dim=-1) < fold
        inside[rows] = seen
        grid[0, rows] = torch.where(
            seen[..., None], torch.stack([2 * u - 1, 2 * v - 1], dim=-1), 2.0
        ).to(torch.float32)
    return grid, inside
